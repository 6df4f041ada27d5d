"""Reads a stream on a server, shard by shard, and keeps a copy of the shards on this machine's disk."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.download import copy_url, read_all, tried
from fastconv.data.stream.manifest import MANIFEST, Manifest, shard_name
from fastconv.data.stream.reader import ShardStream
from fastconv.data.stream.shards import Shard, ShardEntry, check_blocks, check_shard
from fastconv.data.stream.spec import Batch, StreamSpec
from fastconv.data.url_place import Place, below
from fastconv.data.url_reader import WrongContentError
from fastconv.system.errors import InputError, StreamError, warn
from fastconv.system.files import locked, replacing, require_space
from fastconv.system.json_text import from_json
from fastconv.system.urls import redacted

# A manifest of a hundred thousand shards is shorter.
MOST_MANIFEST_BYTES = 2**25
# Training waits this many seconds for the first shard, which cannot be fetched ahead.
FIRST_WAIT_SECONDS = 2.0
# Shards that are fetched at once, ahead of the one that training reads: a connection alone is often slower than the
# network, and has to wait for the server's first byte. It begins with one, and each shard that has arrived allows one
# more, so that the first ones need not share a slow network with later ones.
MOST_AHEAD = 8
# Ending of a shard that is being fetched. Writers of the stream remove other unfinished files, but not these.
UNFINISHED = ".fetch"
ADVICE = (
    "Check stream.root, the network and the server; write the stream there with python -m fastconv.precompute, or to a"
    " folder and upload that; or use stream=online"
)


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

        return tried(read, redacted(url), self._closed, ADVICE)

    def copy(self, name: str, path: Path, most: int, check: Callable[[str], object]) -> None:
        """Read a file of at most `most` bytes into one on this machine, part by part, and `check` its sha256.

        Raises what `read` raises, and InputError if the file cannot be written.
        """
        copy_url(below(self.url, name), "stream.root", path, most, self._closed, ADVICE, check)

    def close(self) -> None:
        """End all further tries."""
        self._closed.set()


def read_manifest(
    remote: RemoteFolder,
    spec: StreamSpec,
    file: str = MANIFEST,
    advice: str = "Upload the stream again, or use stream=online",
) -> Manifest:
    """Read a stream's manifest from a server.

    Raises InputError if it is absent, or, with an advice, if it is damaged or of another stream.
    """
    name = f"{spec.folder}/{file}"
    try:
        content = remote.read(name, MOST_MANIFEST_BYTES, _require_json)
        return Manifest.parse(content, redacted(below(remote.url, name)), spec)
    except StreamError as error:  # no command on this machine can repair it
        raise InputError(f"{error}. {advice}") from None


def _require_json(content: bytes) -> None:
    """Raise WrongContentError for bytes that are not JSON, such as the page of a server that has an error."""
    try:
        from_json(content)
    except ValueError as error:
        raise WrongContentError(f"it is no JSON and begins with {content[:30]!r}") from error


class RemoteStream(ShardStream):
    """Reads the shards that a server has, and computes the blocks of all others: both are the same bytes.

    A shard is fetched when it is first needed, and the next ones, up to `MOST_AHEAD` at once, in the background. Its
    size and sha256 must match the manifest, and its blocks the spec. It goes to disk as it arrives, so that memory does
    not grow with its size, and where a local stream would store it, so that both share their shards.

    Blocks of a shard that never arrives, or for which the disk has no room, are computed. So are those of a shard that
    is late: before each of them, training waits for the shard no longer than computing the block would take.

    Args:
        root: URL of the folder that holds the stream's folder.
        cache: folder on this machine that keeps the stream's shards.
        data: the training images.
        max_epochs: number of epochs beyond which nothing is fetched.

    Raises InputError for a manifest that cannot be fetched.
    """

    def __init__(self, spec: StreamSpec, root: str, cache: Path, data: ImageData, max_epochs: int) -> None:
        self._remote = RemoteFolder(root)
        self._cache, self._max_epochs = cache, max_epochs
        self._arrivals: dict[str, Future[None]] = {}
        self._ahead = 1
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._warned: set[str] = set()
        super().__init__(spec, data, read_manifest(self._remote, spec))

    def _has(self, epoch: int, shard: int) -> bool:
        """Whether a shard is on the server and of the epochs that are fetched."""
        return epoch < self._max_epochs and super()._has(epoch, shard)

    def _open_shard(self, epoch: int, shard: int) -> Shard | None:
        arrival = self._arrival(epoch, shard)
        try:
            arrival.result(self._wait_seconds)
            blocks = self._stored_blocks(epoch, shard)  # verified when it was fetched
            opened: Shard | None = Shard(self._path(epoch, shard), self._entry(epoch, shard), blocks, verify=False)
        except TimeoutError:
            line = f"{redacted(self._remote.url)} sends shards too late: what is late is computed instead"
            self._warn_once("late", line)
            return None
        except InputError as error:  # it does not arrive, or the disk is full
            self._warn_once("absent", f"{error}. Its images are computed instead")
            opened = None
        at = epoch * self._per_epoch + shard
        for number in range(at + 1, at + 1 + self._ahead):
            if self._has(*(following := divmod(number, self._per_epoch))):
                self._arrival(*following)
        if opened is not None:
            self._ahead = min(self._ahead + 1, MOST_AHEAD)
        return opened

    def _path(self, epoch: int, shard: int) -> Path:
        """Where this machine keeps its copy of a shard."""
        return self._cache / self.spec.folder / shard_name(epoch, shard)

    def _entry(self, epoch: int, shard: int) -> ShardEntry:
        return self._manifest.shards[shard_name(epoch, shard)]

    def _compute(self, epoch: int, block: int) -> Batch:
        """Compute a block, and note how long that takes: training waits no longer for a shard."""
        began = time.perf_counter()
        computed = super()._compute(epoch, block)
        self._wait_seconds = time.perf_counter() - began
        return computed

    def _warn_once(self, kind: str, line: str) -> None:
        """Warn of what goes wrong on the server, unless a line of this kind was a warning before."""
        if kind not in self._warned:
            self._warned.add(kind)
            warn(line)

    def _arrival(self, epoch: int, shard: int) -> Future[None]:
        """The download of a shard: a future that is ready when the shard is on disk."""
        name = shard_name(epoch, shard)
        if name not in self._arrivals:
            arrival = self._arrivals[name] = Future()

            def work() -> None:
                try:
                    self._fetch(epoch, shard)
                    arrival.set_result(None)
                except Exception as error:
                    arrival.set_exception(error)

            threading.Thread(target=work, daemon=True, name="fetch").start()
        return self._arrivals[name]

    def _fetch(self, epoch: int, shard: int) -> None:
        """Copy a shard from the server to this machine's disk, unless it is there.

        Raises what `RemoteFolder.copy` raises, and InputError for too little disk space.
        """
        blocks, entry, path = self._stored_blocks(epoch, shard), self._entry(epoch, shard), self._path(epoch, shard)
        number = epoch * self._per_epoch + shard
        # Ranks and runs that need the same shard fetch it once; others are fetched meanwhile.
        with locked(self._cache, f"{self.spec.folder}.fetch-{number % (MOST_AHEAD + 1)}"):
            for leftover in path.parent.glob(f"{path.name}.*{UNFINISHED}"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            try:
                check_shard(path, entry)
                return
            except StreamError:
                require_space(self._cache, entry.bytes, f"a shard of the stream of {self.spec.dataset}")
            with replacing(path, UNFINISHED) as partial:

                def check(digest: str) -> None:
                    if (size := partial.stat().st_size) != entry.bytes:
                        raise WrongContentError(f"it has {size} bytes instead of {entry.bytes}")
                    if digest != entry.sha256:
                        raise WrongContentError("its sha256 is not the manifest's")
                    try:
                        check_blocks(np.memmap(partial, np.uint8, "r"), blocks, "it")
                    except StreamError as error:
                        raise WrongContentError(str(error), final=True) from error

                self._remote.copy(f"{self.spec.folder}/{shard_name(epoch, shard)}", partial, entry.bytes, check)

    def close(self) -> None:
        """Stop fetching, and close the files."""
        self._remote.close()
        super().close()
