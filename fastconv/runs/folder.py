"""The folder of a run on disk: made once, held by one process at a time, finished or not."""

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import IO

from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable


def new_run_folder(parent: Path, job: Path | None = None, prefix: str = "") -> Path:
    """Make a folder that no other run has: `parent`/`prefix`<time>-<short id>, or that of a `job` of a sweep.

    Raises InputError if it can't be made.
    """
    folder = job or parent / f"{prefix}{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=job is not None)  # Hydra has made the folders of a sweep's jobs
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_config(folder: Path, text: str) -> IO[str]:
    """Write a new run's `config.yaml`, locked before it has its name, which it gets only if no other file has it.

    Returns the open file, which holds the folder until it is closed; the system closes it when the process ends,
    however it ends. Raises InputError if another process has the folder, or for a folder that cannot be written.
    """
    partial = folder / f"config.yaml.{os.getpid()}.part"
    file = None
    try:
        file = partial.open("w+")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        _name(partial, folder / "config.yaml")
    except FileExistsError:
        if file is not None:
            file.close()
        raise running(folder) from None
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def _name(partial: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError if another has it."""
    try:
        os.link(partial, path)
    except PermissionError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        partial.replace(path)


def hold(folder: Path) -> IO[str] | None:
    """Lock a run's folder until the returned file is closed; None if another process has it."""
    file = (folder / "config.yaml").open()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def running(folder: Path) -> InputError:
    """The one line for a folder that another process has."""
    return InputError(f"{folder} is running in another process: wait for it, or end it first")


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained and scored."""
    try:
        return Results.read(folder).stop_reason in ("epochs", "budget")
    except (OSError, ValueError, KeyError):
        return False
