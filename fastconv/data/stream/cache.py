"""Streams on disk: they are kept while in use, and the least recently used are removed when space is short."""

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.stream.manifest import MANIFEST
from fastconv.system.files import locked

STREAM_FOLDER = re.compile(r".+-[0-9a-f]{16}")


@contextmanager
def in_use(root: Path, name: str) -> Iterator[None]:
    """Protect the stream `name`, which need not exist yet, from `prune`, and mark it as used now.

    Every user has its own lock, so there may be several users. They take their locks one at a time, under the lock that
    `prune` holds while it removes a stream.
    """
    with ExitStack() as stack:
        own = f"{name}.use-{os.getpid()}-{secrets.token_hex(4)}"
        with locked(root, f"{name}.use"):
            _has_users(root, name)  # so that killed users leave no lock files
            stack.enter_context(locked(root, own))
        with suppress(FileNotFoundError):
            os.utime(root / name)
        try:
            yield
        finally:
            with suppress(OSError):  # the next user removes it
                (root / ".locks" / own).unlink()


def _has_users(root: Path, name: str) -> bool:
    """Whether a stream is in use. The caller holds its `use` lock. Removes the lock files of killed users."""
    found = False
    for path in (root / ".locks").glob(f"{glob.escape(name)}.use-*"):
        with locked(root, path.name, wait=False) as free:
            pass
        if free:
            with suppress(OSError):
                path.unlink()
        found = found or not free
    return found


def remove_leftovers(*folders: Path) -> None:
    """Remove the unfinished files of killed writers from a stream's folder, or from those of some epochs.

    The caller holds the lock for writing them, so that no file is still being written.
    """
    for folder in folders:
        for leftover in folder.rglob("*.part"):
            leftover.unlink()


@dataclass(frozen=True)
class StoredStream:
    """A stream on disk: its folder, its size in bytes, and when it was last used (seconds since the epoch)."""

    folder: Path
    bytes: int
    used: float


def stored_streams(root: Path) -> list[StoredStream]:
    """The streams below `root`, the least recently used first."""
    if not root.is_dir():
        return []
    streams = []
    for folder in root.iterdir():
        with suppress(OSError):  # another process may be removing the folder, or renaming a file in it
            # A link leads to files elsewhere, which are not ours to remove.
            if STREAM_FOLDER.fullmatch(folder.name) and not folder.is_symlink() and _holds_only_a_stream(folder):
                size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                streams.append(StoredStream(folder, size, folder.stat().st_mtime))
    return sorted(streams, key=lambda stream: stream.used)


def _holds_only_a_stream(folder: Path) -> bool:
    """Whether a folder contains only files that fastconv writes. Others are not ours to remove."""
    paths = list(folder.iterdir()) if folder.is_dir() else [folder]
    return all(path.name.startswith((MANIFEST, "epoch-")) and not path.is_symlink() for path in paths)


def prune(root: Path, max_bytes: float, keep: str | None = None) -> list[StoredStream]:
    """Remove the least recently used streams until the others fit in `max_bytes`; return the removed ones.

    A stream that some process reads or writes is kept.

    Args:
        root: the folder that holds the streams' folders.
        keep: name of a stream to keep, whose size does not count.
    """
    streams = [stream for stream in stored_streams(root) if stream.folder.name != keep]
    total = sum(stream.bytes for stream in streams)
    removed = []
    for stream in streams:
        if total <= max_bytes:
            break
        name = stream.folder.name
        with (
            locked(root, f"{name}.use", wait=False) as nobody_begins,
            locked(root, f"{name}.write", wait=False) as nobody_writes,
        ):
            if not (nobody_begins and nobody_writes) or _has_users(root, name):
                continue
            # Remove the manifest first: an interrupted removal must not leave a stream that looks complete.
            (stream.folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(stream.folder, ignore_errors=True)  # another process may have removed it already
        total -= stream.bytes
        removed.append(stream)
    return removed
