"""The folder of a run on disk: made once, held by one process at a time, finished or not."""

import secrets
import time
from contextlib import ExitStack
from pathlib import Path

from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.files import try_lock, unwritable, write_atomically


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


def write_config(folder: Path, text: str) -> ExitStack:
    """Write a new run's `config.yaml` and hold its folder from before the file is there.

    Raises InputError if the folder has a config or a process that holds it, or cannot be written.
    """
    held = hold(folder)
    if held is None:
        raise running(folder)
    if (folder / "config.yaml").exists():
        held.close()
        raise running(folder)
    try:
        write_atomically(folder / "config.yaml", text.encode())
    except BaseException:
        held.close()
        raise
    return held


def hold(folder: Path) -> ExitStack | None:
    """Hold a run's folder until what is returned is closed; None if another process has it.

    The lock is a file of its own, `.lock`; the system lets go of it when the process ends, however it ends. Raises
    InputError for a folder that cannot be written.
    """
    lock = try_lock(folder / ".lock")
    if lock is None:
        return None
    held = ExitStack()
    held.callback(lock.release)
    return held


def running(folder: Path) -> InputError:
    """The one line for a folder that another process has."""
    return InputError(f"{folder} is running in another process: wait for it, or end it first")


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained and scored."""
    try:
        return Results.read(folder).stop_reason in ("epochs", "budget")
    except (OSError, ValueError, KeyError):
        return False
