"""Files of the first rank for ranks that have disks of their own."""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fastconv.system.distributed import from_first_rank, is_first_rank, started_together, world
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable
from fastconv.system.rank_store import ASK_AGAIN_SECONDS, store, wait_for

# Bytes of a message: the store through which ranks find each other takes 8 MiB.
CHUNK_BYTES = 4 * 2**20

# They are removed when the process ends; before `os._exit`, by `remove_copies`.
_copies: list["tempfile.TemporaryDirectory[str]"] = []


def remove_copies() -> None:
    """Remove the copies of files that this process has made."""
    while _copies:
        _copies.pop().cleanup()


def files_from_first_rank(name: str, folder: Path, files: Sequence[str]) -> Path:
    """The folder in which this rank finds some files of the first rank's `folder`, as they are now.

    That folder itself, if the rank sees the same files there; else a temporary one with copies, which is removed when
    the process ends. All ranks call this; the first one waits for the others.

    Args:
        name: as for `from_first_rank`.
        files: names of the files; those that are missing on the first rank are left out.

    Raises InputError if the files cannot be read or copied.
    """
    if not started_together():  # the first rank starts the others on its own machine
        return folder
    theirs: dict[str, str] = from_first_rank(f"{name}/digests", lambda: _digests(folder, files))
    if is_first_rank():
        _send(name, folder, list(theirs))
        return folder
    needs = _digests(folder, files) != theirs
    store().add(f"{name}/copies", int(needs))
    store().add(f"{name}/asked", 1)
    return _received(name, list(theirs)) if needs else folder


def _digests(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file that is there."""
    found = {}
    for file in files:
        try:
            with (folder / file).open("rb") as opened:
                found[file] = hashlib.file_digest(opened, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"{folder / file} cannot be read: {error.strerror or error}") from error
    return found


def _send(name: str, folder: Path, files: Sequence[str]) -> None:
    """Put the files into the store, if any other rank needs them."""
    shared = store()
    while shared.add(f"{name}/asked", 0) < world() - 1:
        time.sleep(ASK_AGAIN_SECONDS / 4)
    if not shared.add(f"{name}/copies", 0):
        return
    for file in files:
        parts = 0
        with (folder / file).open("rb") as opened:
            while part := opened.read(CHUNK_BYTES):
                shared.set(f"{name}/{file}/{parts}", part)
                parts += 1
        shared.set(f"{name}/{file}", str(parts))


def _received(name: str, files: Sequence[str]) -> Path:
    """A temporary folder with the files; the last rank to have them removes them from the store."""
    shared, sent = store(), list[str]()
    copies = tempfile.TemporaryDirectory(prefix="fastconv-", ignore_cleanup_errors=True)
    _copies.append(copies)
    folder = Path(copies.name)
    for file in files:
        parts = int(wait_for(f"{name}/{file}"))
        try:
            with (folder / file).open("wb") as opened:
                for part in range(parts):
                    sent.append(f"{name}/{file}/{part}")
                    opened.write(shared.get(sent[-1]))
        except OSError as error:
            raise unwritable(folder / file, error) from error
    if shared.add(f"{name}/received", 1) == shared.add(f"{name}/copies", 0):
        for key in sent:
            shared.delete_key(key)
    return folder
