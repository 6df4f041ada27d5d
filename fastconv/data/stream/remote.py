"""Reads a stream on a server, shard by shard, and keeps a copy of the shards on this machine's disk."""

import hashlib
import json
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from fastconv.data.dataset import ImageData
from fastconv.data.download import Place, UnavailableError, WrongContentError, below, read_all, tried
from fastconv.data.stream.cache import remove_leftovers
from fastconv.data.stream.reader import ShardStream
from fastconv.data.stream.shards import Shard, check_blocks, check_shard
from fastconv.data.stream.spec import MANIFEST, Batch, Manifest, StreamSpec, shard_name
from fastconv.system.errors import InputError, StreamError
from fastconv.system.files import locked, require_space, write_atomically
from fastconv.system.urls import redacted

# A manifest of a hundred thousand shards is shorter.
MOST_MANIFEST_BYTES = 2**25
# Training waits this many seconds for the first shard, which cannot be fetched ahead.
FIRST_WAIT_SECONDS = 2.0


class RemoteFolder:
    """A folder behind a URL of any protocol that fsspec supports. Raises InputError for a URL that it cannot open."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._closed = threading.Event()
        Place(self.url, "stream.root")

    def read(self, name: str, most: int, check: Callable[[bytes], object]) -> bytes:
        """Read a file of at most `most` bytes that passes `check`. A failed try is repeated after growing pauses.

        Raises UnavailableError, an InputError that names the URL, for a file that does not exist or never arrives
        complete and correct.
        """
        url = below(self.url, name)
        place = Place(url, "stream.root")

        def read() -> bytes:
            content = read_all(place, most, self._closed)
            check(content)
            return content

        return tried(
            read,
            redacted(url),
            self._closed,
            "Check stream.root, the network and the server; write the stream to a folder with python -m"
            " fastconv.precompute and upload that; or use stream=online",
        )

    def close(self) -> None:
        """End all further tries."""
        self._closed.set()


def read_manifest(remote: RemoteFolder, spec: StreamSpec) -> Manifest:
    """Read a stream's manifest from a server. Raises InputError if it is absent, damaged or of another stream."""
    name = f"{spec.folder}/{MANIFEST}"
    try:
        content = remote.read(name, MOST_MANIFEST_BYTES, _require_json)
        return Manifest.parse(content, redacted(below(remote.url, name)), spec)
    except StreamError as error:  # no command on this machine can repair it
        raise InputError(f"{error}. Upload the stream again, or use stream=online") from None


def _require_json(content: bytes) -> None:
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WrongContentError(f"it is no JSON and begins with {content[:30]!r}") from error


class RemoteStream(ShardStream):
    """Reads the shards that a server has, and computes the blocks of all others: both are the same bytes.

    A shard is fetched when it is first needed, and the next one in the background. Its size and sha256 must match the
    manifest, and its blocks the spec. It is stored where a local stream would store it, so that local and remote
    streams share their shards.

    Blocks of a shard that never arrives are computed. So are those of a shard that is late: before each of them,
    training waits for the shard no longer than computing the block would take.

    Args:
        root: URL of the folder that holds the stream's folder.
        cache: folder on this machine that keeps the stream's shards.
        data: the training images.
        max_epochs: number of epochs beyond which nothing is fetched.

    Raises InputError for a manifest that cannot be fetched, and for a shard that cannot be stored.
    """

    def __init__(self, spec: StreamSpec, root: str, cache: Path, data: ImageData, max_epochs: int) -> None:
        self._remote = RemoteFolder(root)
        self._cache, self._max_epochs = cache, max_epochs
        self._arrivals: dict[str, Future[Shard]] = {}
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._told: set[str] = set()
        super().__init__(spec, data, read_manifest(self._remote, spec))

    def _has(self, epoch: int, shard: int) -> bool:
        return epoch < self._max_epochs and super()._has(epoch, shard)

    def _open_shard(self, epoch: int, shard: int) -> Shard | None:
        arrival = self._arrival(epoch, shard)
        try:
            opened = arrival.result(self._wait_seconds)
        except TimeoutError:
            self._tell("late", f"{redacted(self._remote.url)} sends shards too late: what is late is computed instead")
            return None
        except UnavailableError as error:
            self._tell("absent", f"{error}. Its images are computed instead")
            opened = None
        following = divmod(epoch * self._per_epoch + shard + 1, self._per_epoch)
        if self._has(*following):
            self._arrival(*following)
        return opened

    def _compute(self, epoch: int, block: int) -> Batch:
        began = time.perf_counter()
        computed = super()._compute(epoch, block)
        self._wait_seconds = time.perf_counter() - began
        return computed

    def _tell(self, what: str, line: str) -> None:
        """Warn of what goes wrong on the server, once."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(line, stacklevel=2)

    def _arrival(self, epoch: int, shard: int) -> Future[Shard]:
        """The download of a shard: a future that is ready when the shard is on disk."""
        name = shard_name(epoch, shard)
        if name not in self._arrivals:
            arrival = self._arrivals[name] = Future()

            def work() -> None:
                try:
                    arrival.set_result(self._fetch(epoch, shard))
                except Exception as error:
                    arrival.set_exception(error)

            threading.Thread(target=work, daemon=True, name="fetch").start()
        return self._arrivals[name]

    def _fetch(self, epoch: int, shard: int) -> Shard:
        name, blocks = shard_name(epoch, shard), self._stored_blocks(epoch, shard)
        entry, folder = self._manifest.shards[name], self._cache / self.spec.folder

        def check(content: bytes) -> None:
            if len(content) != entry.bytes:
                raise WrongContentError(f"it has {len(content)} bytes instead of {entry.bytes}")
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise WrongContentError("its sha256 is not the manifest's")
            try:
                check_blocks(content, blocks, "it")
            except StreamError as error:
                raise WrongContentError(str(error), final=True) from error

        with locked(self._cache, f"{folder.name}.write"):  # ranks and runs that need the same shard fetch it once
            try:
                check_shard(folder / name, entry)
            except StreamError:
                remove_leftovers(folder)
                require_space(self._cache, entry.bytes, f"a shard of the stream of {self.spec.dataset}")
                write_atomically(folder / name, self._remote.read(f"{folder.name}/{name}", entry.bytes, check))
        try:
            return Shard(folder / name, entry, blocks, verify=False)  # it was verified when it was fetched
        except StreamError as error:
            raise UnavailableError(str(error)) from error

    def close(self) -> None:
        """Stop fetching, and close the files."""
        self._remote.close()
        super().close()
