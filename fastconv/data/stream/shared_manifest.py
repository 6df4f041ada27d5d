"""The manifest of a stream in a store, to which commands on several machines add at the same time.

A store replaces a file whole: of two commands that read the manifest, add to it and replace it, the later one would
undo what the earlier one has added. So each command lists beside the manifest what it has sent. It reads and replaces
the manifest again until that names what all lists name.

A list is needed while a command may have read the manifest before that was added. So a command that ends marks its
list, and removes all lists once every one is marked.
"""

import secrets
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fastconv.data.download import AbsentError, tried
from fastconv.data.sending import send_bytes
from fastconv.data.stream.manifest import MANIFEST, Manifest
from fastconv.data.stream.remote import RemoteFolder, read_manifest
from fastconv.data.stream.shards import ShardEntry
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.url_place import Place, below
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted

# The start of a list's name, and the ending of a list's name whose command has ended.
SENT, ENDED = f"{MANIFEST}.sent-", ".ended"
# A command that has not written its list for this time was killed. If it was only stopped, what it goes on to undo is
# sent again by the next command.
ABANDONED = timedelta(days=1)
# Tries to add shards to a manifest that other commands replace too.
MOST_ROUNDS = 10
KEY = "stream.root"
ADVICE = "Check stream.root, its bucket and that you may write to it"
REMOVE = "Remove that file there, and give the command again"


class SharedManifest:
    """The manifest of a stream in the folder behind a URL, and what one command adds to it.

    Args:
        url: of the folder that holds the stream's folder, of any protocol that fsspec can write to.
        stopped: set to end all further tries.

    Raises InputError, in all methods but `end`, for a store that cannot be read or written, and for a manifest or list
    that is damaged or of another stream.
    """

    def __init__(self, spec: StreamSpec, url: str, stopped: threading.Event) -> None:
        self._spec, self._url, self._stopped = spec, url, stopped
        self._folder = Place(below(url, spec.folder), KEY)
        self._name = f"{SENT}{secrets.token_hex(6)}"
        self._sent: dict[str, ShardEntry] = {}

    def read(self) -> Manifest:
        """The manifest as it is now; one without shards if the stream is not there."""
        return self._read(MANIFEST)

    def add(self, sent: dict[str, ShardEntry]) -> None:
        """Add shards that have been sent, and those of other commands whose manifest this one has replaced."""
        self._sent |= sent
        self._write(self._name, self._sent)
        for _ in range(MOST_ROUNDS):
            manifest, by_all = self.read(), self._named(self._lists())
            if by_all.items() <= manifest.shards.items():
                return
            self._write(MANIFEST, manifest.shards | by_all)
        raise InputError(f"other machines keep replacing the manifest of {redacted(self._url)}: give the command again")

    def end(self) -> None:
        """Add no more. Remove all lists if no command is left that needs them; what fails is left to the next one."""
        with suppress(InputError):
            if self._sent:
                self._write(f"{self._name}{ENDED}", self._sent)
                self._remove(self._name)
            # In this order: a command that begins later reads a manifest that has what these lists name.
            lists = self._lists()
            if all(name.endswith(ENDED) or self._is_abandoned(name) for name in lists):
                by_all = self._named(lists)
                if by_all.items() <= self.read().shards.items():
                    for name in lists:
                        self._remove(name)

    def _lists(self) -> list[str]:
        """The names of the lists of all commands."""

        def names() -> list[str]:
            self._folder.system.invalidate_cache()  # it may remember what it listed before
            paths: list[str] = self._folder.system.ls(self._folder.path, detail=False)
            return [path.rpartition("/")[2] for path in paths]

        found = tried(names, redacted(below(self._url, self._spec.folder)), self._stopped, ADVICE)
        return sorted(name for name in found if name.startswith(SENT))

    def _named(self, lists: list[str]) -> dict[str, ShardEntry]:
        """The shards that lists name; none for a list that another command has removed meanwhile."""
        return {name: entry for each in lists for name, entry in self._read(each).shards.items()}

    def _is_abandoned(self, name: str) -> bool:
        """Whether a list is so old that its command must have been killed."""
        with suppress(Exception):  # every protocol raises its own, and some do not know the time
            written: datetime = self._folder.system.modified(f"{self._folder.path.rstrip('/')}/{name}")
            return datetime.now(UTC) - written > ABANDONED
        return False

    def _read(self, name: str) -> Manifest:
        """The manifest or a list; one without shards if it is absent."""
        try:
            return read_manifest(RemoteFolder(self._url), self._spec, name, advice=REMOVE)
        except AbsentError:
            return Manifest(self._spec, {})

    def _write(self, name: str, shards: dict[str, ShardEntry]) -> None:
        """Replace the manifest or a list."""
        content = Manifest(self._spec, shards).content()
        send_bytes(content, below(self._url, f"{self._spec.folder}/{name}"), KEY, self._stopped, ADVICE)

    def _remove(self, name: str) -> None:
        """Remove a list, if that is possible."""
        with suppress(Exception):  # it may be gone, or may not be removed
            self._folder.system.rm_file(f"{self._folder.path.rstrip('/')}/{name}")
