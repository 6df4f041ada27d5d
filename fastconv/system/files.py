"""Files that survive a kill: atomic writes, locks between processes, checks for free disk space, and safe reads."""

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from fastconv.system.errors import InputError, warn

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")
# The folder of the package.
PACKAGE = Path(__file__).resolve().parents[1]
# Bytes to leave free on the disk, for the checkpoints and tables of the run that reads the file.
SPARE_BYTES = 64 * 2**20
# Errors by which the system says that a disk is full, that too many files are open, and that it cannot or must not read
# or write a file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TOO_MANY = (errno.EMFILE, errno.ENFILE)
FILE_ERRORS = (*FULL, *TOO_MANY, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR,
               errno.EISDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip
# Windows' codes for a file that another process has open, and seconds between tries to replace it.
IN_USE, PAUSES = (5, 32), (0.01, 0.03, 0.1, 0.3, 1.0)
# Bytes of the largest file that is read into memory whole, such as an image.
MOST_BYTES = 2**30
# Bytes of a file without a size, as those of /proc, that are read at a time.
PART_BYTES = 2**16


def write_atomically(path: Path, data: "bytes | memoryview", *, durable: bool = False) -> None:
    """Write a file so that it is either complete or absent: to a file beside it first, which then gets its name.

    Args:
        durable: return only when the content is on the disk, so that a crash of the machine cannot lose it.

    Raises InputError if the file cannot be written; one that was there before then stays.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        _sync_folder(path.parent)


def keep_measurement(path: Path, data: bytes) -> None:
    """Write a file that only saves time, such as a benchmark. Where it cannot be written, a warning says so."""
    try:
        write_atomically(path, data)
    except InputError as error:
        warn(f"a measurement is not kept, so the next run makes it again: {error}")


def forget_measurement(path: Path) -> None:
    """Remove what `keep_measurement` wrote, if it is there and the folder can be written."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk. Some systems and file systems cannot, and need not."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replacing(path: Path, ending: str = ".part") -> Iterator[Path]:
    """Yield a new, empty file beside `path`, which takes its name at the end, or goes if an error ends the block.

    Its own name has an `ending`, which matters to some writers.
    Its name cannot be guessed and it is created here, so a link that somebody planted in the folder is never followed:
    at `path` itself, a link is replaced. Raises InputError if the folder cannot be written.
    """
    partial = path.with_name(f"{path.name[:200]}.{secrets.token_hex(6)}{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
        yield partial
        _replace(path, partial)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # the folder may be gone, or read-only by now
            partial.unlink(missing_ok=True)


def _replace(path: Path, partial: Path) -> None:
    """Give a file its name. Windows refuses that while another process has the file of that name open, such as a virus
    scanner, or a command that reads the results of a run: then it is tried again for a while."""
    for pause in (*PAUSES, None):
        try:
            partial.replace(path)
            return
        except PermissionError as error:
            if pause is None or getattr(error, "winerror", None) not in IN_USE:
                raise
            time.sleep(pause)


def path_from(path: Path | str, folder: Path | str = os.curdir) -> str:
    """A path as it is from a folder; as it is given where none leads there, as to another drive of Windows."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return str(path)


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file, or of the one that a link leads to.

    Pipes, sockets and devices, which may block for ever or have no end, are not opened. Raises OSError for a file that
    cannot be read, InputError for one that is not regular or has more than `most_bytes`.
    """
    return _again_if_stale(lambda: _read_whole(path, most_bytes))


def _again_if_stale(act: Callable[[], T]) -> T:
    """What a function returns that opens a file. Over NFS, the file may be replaced or removed meanwhile by another
    machine: then it is called again."""
    try:
        return act()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return act()


def _read_whole(path: Path, most_bytes: int) -> bytes:
    require_regular(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # it may have become a pipe
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path} is not a regular file")
        content = _read(file, about.st_size, most_bytes + 1) if about.st_size <= most_bytes else b""
    if max(len(content), about.st_size) > most_bytes:
        raise InputError(f"{path} has more than {most_bytes / 2**20:,.0f} MiB")
    return content


def _read(file: IO[bytes], size: int, most: int) -> bytes:
    """The content of a file of `size` bytes by its own account, at most `most`: one of /proc has no size, and maybe no
    end.

    Reads no more at a time than the file says, since Python first allocates as much as is asked for. A limit on the
    memory of a process (`ulimit -v`), and Windows, count that.
    """
    parts = []
    while most > 0 and (part := file.read(min(most, max(size + 1, PART_BYTES)))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def require_regular(path: Path) -> None:
    """Raise InputError for a pipe, a socket, a device or a folder; OSError for a file that is not there."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "something else")
        raise InputError(f"{path} is {kind}, not a regular file")


KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for a file that could not be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}. {_advice(error)}")


def _advice(error: OSError) -> str:
    if error.errno in FULL:
        return "Free some space or choose another folder"
    if error.errno in TOO_MANY:
        return "Allow more open files (ulimit -n)"
    return "Choose a shorter name" if error.errno == errno.ENAMETOOLONG else "Choose another folder"


def is_of_files(error: BaseException) -> bool:
    """Whether the system refused to read or write a file: a full disk, a folder that is gone or read-only."""
    return isinstance(error, OSError) and error.errno in FILE_ERRORS


def of_file(error: BaseException) -> str:
    """Say in one line which file the system refused to read or write, and why."""
    assert isinstance(error, OSError)
    where = f"cannot read or write {error.filename}" if error.filename else "cannot write a file"
    return f"{where}: {error.strerror}. {_advice(error) if error.errno in (*FULL, *TOO_MANY) else ''}".rstrip()


@contextmanager
def locked(root: Path, name: str, *, wait: float | bool = True) -> Iterator[bool]:
    """Hold the lock `name` of the folder `root`; yields False if another process or thread holds it.

    The operating system releases the lock when its holder dies, even by a kill, so no lock is ever stale. Threads of
    one process exclude each other as processes do.

    Args:
        wait: whether to wait for another one, or how many seconds at most.

    Raises InputError if the folder cannot be written.
    """
    lock = try_lock(root / ".locks" / name, wait=wait)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def try_lock(path: Path, *, wait: float | bool = False) -> "BaseFileLock | None":
    """Lock a lock file; None if another process or thread holds it. Takes and raises what `locked` does."""
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        _again_if_stale(lambda: lock.acquire(timeout=-1 if wait is True else float(wait), blocking=bool(wait)))
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
