"""Files that survive a kill: atomic writes, locks between processes, and checks for free disk space."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

# The folder of the package.
PACKAGE = Path(__file__).resolve().parents[1]
# Bytes to leave free on the disk, for the checkpoints and tables of the run that reads the file.
SPARE_BYTES = 64 * 2**20
# Errors by which the system says that a disk is full, and that it cannot or must not read or write a file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FILE_ERRORS = (*FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
               errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip


def write_atomically(path: Path, data: "bytes | memoryview", *, durable: bool = False) -> None:
    """Write a file so that it is either complete or absent: to a file beside it first, which then gets its name.

    Args:
        durable: return only when the content is on the disk, so that a crash of the machine cannot lose it.

    Raises InputError if the file cannot be written; one that was there before then stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # the folder may be gone, or read-only by now
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk. Some systems and file systems cannot, and need not."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for a file that could not be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}. Free some space or choose another folder")


def is_of_files(error: BaseException) -> bool:
    """Whether the system refused to read or write a file: a full disk, a folder that is gone or read-only."""
    return isinstance(error, OSError) and error.errno in FILE_ERRORS


def of_file(error: BaseException) -> str:
    """Say in one line which file the system refused to read or write, and why."""
    assert isinstance(error, OSError)
    where = f"cannot read or write {error.filename}" if error.filename else "cannot write a file"
    advice = " Free some space or choose another folder" if error.errno in FULL else ""
    return f"{where}: {error.strerror}.{advice}"


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
