"""The folder of a run on disk: created once, and held by one process at a time."""

import secrets
import time
from contextlib import ExitStack
from pathlib import Path

from fastconv.runs.results import FINISHED, PRUNED, Results
from fastconv.system.errors import InputError
from fastconv.system.files import try_lock, unwritable, write_atomically

# The file of a run's weights, and of the state of what trains them.
CHECKPOINT = "last.ckpt"


def new_run_folder(parent: Path, job: Path | None = None, prefix: str = "") -> Path:
    """Create a folder that no other run has: `parent`/`prefix`<time>-<short id>, or the folder of a sweep's `job`.

    Raises InputError if it cannot be created.
    """
    folder = job or parent / f"{prefix}{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=job is not None)  # Hydra creates the folders of a sweep's jobs
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def write_config(folder: Path, text: str) -> ExitStack:
    """Lock the folder of a new run, then write its `config.yaml`. The lock lasts until the returned stack is closed.

    Raises InputError if the folder already has a config, is held by another process, or cannot be written.
    """
    held = hold(folder)
    if held is None:
        raise RunningElsewhereError(folder)
    if (folder / "config.yaml").exists():
        held.close()
        raise RunningElsewhereError(folder)
    try:
        write_atomically(folder / "config.yaml", text.encode())
    except BaseException:
        held.close()
        raise
    return held


def hold(folder: Path) -> ExitStack | None:
    """Hold a run's folder until the returned stack is closed; None if another process holds it.

    The lock is a file of its own, `.lock`. The system releases it when the process ends, even by a kill. Raises
    InputError for a folder that cannot be written.
    """
    lock = try_lock(folder / ".lock")
    if lock is None:
        return None
    held = ExitStack()
    held.callback(lock.release)
    return held


class RunningElsewhereError(InputError):
    """Another process holds the folder of a run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is running in another process: wait for it, or end it first")
        self.folder = folder


def wait_until_free(folder: Path) -> None:
    """Wait until no other process holds a run's folder. A signal can end the wait."""
    lock = try_lock(folder / ".lock", wait=True)
    if lock is not None:
        lock.release()


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained and scored."""
    return _stop_reason(folder) in FINISHED


def is_pruned(folder: Path) -> bool:
    """Whether a search ended a run early."""
    return _stop_reason(folder) == PRUNED


def is_over(folder: Path) -> bool:
    """Whether nothing is left to do of a job of a sweep: it is finished, or its search ended it."""
    return _stop_reason(folder) in (*FINISHED, PRUNED)


def _stop_reason(folder: Path) -> str | None:
    """Why a run has ended; None for one without readable results."""
    try:
        return Results.read(folder).stop_reason
    except (OSError, ValueError):
        return None
