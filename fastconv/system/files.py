"""Files that survive a kill: atomic writes, locks between processes, and checks for free disk space."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

# The folder of the package.
PACKAGE = Path(__file__).resolve().parents[1]
# Bytes to leave free on the disk, for the checkpoints and tables of the run that reads the file.
SPARE_BYTES = 64 * 2**20


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or absent. Raises InputError if the folder cannot be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for a file that could not be written."""
    return InputError(f"cannot write {path}: {error.strerror}. Free some space or choose another folder")


@contextmanager
def locked(root: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock `name` of the folder `root`; yields False if `wait` is off and another process or thread holds it.

    The operating system releases the lock when its holder dies, even by a kill, so no lock is ever stale. Threads of
    one process exclude each other as processes do. Raises InputError if the folder cannot be written.
    """
    lock = try_lock(root / ".locks" / name, wait=wait)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def try_lock(path: Path, *, wait: bool = False) -> "BaseFileLock | None":
    """Lock a lock file; None if `wait` is off and another process or thread holds it.

    Raises InputError if the file cannot be created.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        raise unwritable(path, error) from error
    return lock


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise InputError unless the disk of `folder` has room for `needed_bytes` and `SPARE_BYTES` more."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + SPARE_BYTES > free:
        raise InputError(
            f"{what} needs {needed_bytes / 1e6:,.0f} MB and {SPARE_BYTES / 1e6:,.0f} MB to spare in {folder}, which has"
            f" {free / 1e6:,.0f} MB free. Free some (python -m fastconv.precompute prune=true), set stream.root (for a"
            " URL stream.cache) to another disk, or use stream=online"
        )
