"""Files that survive a kill: atomic writes, locks between processes, room on the disk, and old streams put away."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastconv.system.errors import InputError

STREAM_FOLDER = re.compile(r".+-[0-9a-f]{16}")
# Left free beside what a stream needs, for the checkpoints and tables of the run that reads it.
SPARE_BYTES = 64 * 2**20


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or absent. Raises InputError if the folder can't be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """The one line for a file that could not be written."""
    return InputError(f"cannot write {path}: {error.strerror}. Free some space or choose another folder")


@contextmanager
def locked(root: Path, name: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock `name` of the folder `root`; yields False if `wait` is off and another process holds it.

    The operating system lets go of the lock when its holder dies, however it dies, so no lock is ever stale.
    """
    path = root / ".locks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def in_use(root: Path, name: str) -> Iterator[None]:
    """Keep the stream `name`, be it there already or not, from being removed by `prune`, and mark it as used now."""
    with locked(root, f"{name}.use", shared=True):
        with suppress(FileNotFoundError):
            os.utime(root / name)
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left half-written in a stream's folder, whose `write` lock the caller holds."""
    for leftover in folder.rglob("*.part"):
        leftover.unlink()


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise InputError unless the disk of `folder` has room for `needed_bytes` and a little more."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + SPARE_BYTES > free:
        raise InputError(
            f"{what} needs {needed_bytes / 1e6:,.0f} MB and {SPARE_BYTES / 1e6:,.0f} MB to spare in {folder}, which has"
            f" {free / 1e6:,.0f} MB free. Free some (python -m fastconv.precompute prune=true), set stream.root (for a"
            " URL stream.cache) to another disk, or use stream=online"
        )


@dataclass(frozen=True)
class StoredStream:
    """A stream on disk: its folder, its size in bytes, and when it was last used (seconds since the epoch)."""

    folder: Path
    bytes: int
    used: float


def stored_streams(root: Path) -> list[StoredStream]:
    """The streams below `root`, least recently used first."""
    if not root.is_dir():
        return []
    streams = []
    for folder in root.iterdir():
        with suppress(FileNotFoundError):  # another process may be removing it, or renaming a file in it
            if STREAM_FOLDER.fullmatch(folder.name) and _holds_only_a_stream(folder):
                size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                streams.append(StoredStream(folder, size, folder.stat().st_mtime))
    return sorted(streams, key=lambda stream: stream.used)


def _holds_only_a_stream(folder: Path) -> bool:
    """Whether there is nothing in a folder but what fastconv writes: what else is there is not ours to remove."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [""]
    return all(name.startswith(("manifest.json", "epoch-")) for name in names)


def prune(root: Path, max_bytes: float, keep: str | None = None) -> list[StoredStream]:
    """Remove the least recently used streams until the rest fits in `max_bytes`; return what was removed.

    A stream that some process reads or writes is left alone. The one named `keep` is too, and does not count.
    """
    streams = [stream for stream in stored_streams(root) if stream.folder.name != keep]
    total = sum(stream.bytes for stream in streams)
    removed = []
    for stream in streams:
        if total <= max_bytes:
            break
        name = stream.folder.name
        with (
            locked(root, f"{name}.use", wait=False) as unread,
            locked(root, f"{name}.write", wait=False) as unwritten,
        ):
            if not (unread and unwritten):
                continue
            # The manifest goes first: a removal that is cut off leaves no stream that looks whole.
            (stream.folder / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(stream.folder, ignore_errors=True)  # another process may have removed it before
        total -= stream.bytes
        removed.append(stream)
    return removed
