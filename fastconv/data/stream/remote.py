"""Reads a stream on a server, shard by shard, and keeps a copy of the shards on this machine's disk."""

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from fsspec.core import url_to_fs

from fastconv.data.dataset import ImageData
from fastconv.data.stream.cache import remove_leftovers
from fastconv.data.stream.reader import ShardStream
from fastconv.data.stream.shards import Shard, ShardEntry, check_shard
from fastconv.data.stream.spec import Manifest, StreamSpec, shard_name
from fastconv.system.errors import InputError, StreamError
from fastconv.system.files import locked, require_space, write_atomically

# Seconds between tries.
PAUSES = (0.5, 1.0, 2.0, 4.0)
# A try ends if the server sends nothing for this many seconds. A download that makes progress has no time limit.
SILENCE_SECONDS = 30


class RemoteFolder:
    """A folder behind a URL of any protocol that fsspec supports. Raises InputError for a URL that it cannot open."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._closed = threading.Event()
        options = {}
        if self.url.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}  # proxies, as for other downloads
        try:
            self._system, self._path = url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot open {url}: {error}. Set stream.root to another address or to a folder") from None

    def read(self, name: str, check: Callable[[bytes], object]) -> bytes:
        """Read a file that passes `check`. A failed try is repeated after growing pauses.

        Raises InputError, naming the URL, for a file that does not exist or never arrives complete and correct.
        """
        url = f"{self.url}/{name}"
        for pause in (*PAUSES, None):
            try:
                content: bytes = self._system.cat_file(f"{self._path}/{name}")
                check(content)
                return content
            except FileNotFoundError:
                raise InputError(
                    f"{url} does not exist. Check stream.root; or write the stream to a folder with python -m"
                    " fastconv.precompute and upload that; or use stream=online"
                ) from None
            except Exception as error:  # every protocol raises its own
                failure = str(error) or type(error).__name__
            if pause is None or self._closed.wait(pause):
                break
        raise InputError(
            f"cannot fetch {url} in {len(PAUSES) + 1} tries: {failure}. Check the network and the server, upload the"
            " stream again if it is damaged there, or use stream=online"
        )

    def close(self) -> None:
        """End all further tries."""
        self._closed.set()


def read_manifest(remote: RemoteFolder, spec: StreamSpec) -> Manifest:
    """Read a stream's manifest from a server. Raises InputError if it is absent, damaged or of another stream."""
    name = f"{spec.folder}/manifest.json"
    try:
        return Manifest.parse(remote.read(name, json.loads), f"{remote.url}/{name}", spec)
    except StreamError as error:  # no command on this machine can repair it
        raise InputError(f"{error}. Upload the stream again, or use stream=online") from None


class RemoteStream(ShardStream):
    """Reads the shards that a server has, and computes the blocks of all others.

    A shard is fetched when it is first needed, and the next one in the background. Its sha256 must match the manifest.
    It is stored where a local stream would store it, so that local and remote streams share their shards.

    Args:
        root: URL of the folder that holds the stream's folder.
        cache: folder on this machine that keeps the stream's shards.
        data: the training images.
        max_epochs: number of epochs beyond which nothing is fetched.

    Raises InputError for a shard that cannot be fetched or stored.
    """

    def __init__(self, spec: StreamSpec, root: str, cache: Path, data: ImageData, max_epochs: int) -> None:
        self._remote = RemoteFolder(root)
        self._cache, self._max_epochs = cache, max_epochs
        self._arrivals: dict[str, Future[tuple[Path, ShardEntry]]] = {}
        super().__init__(spec, data, read_manifest(self._remote, spec))

    def _has(self, epoch: int, shard: int) -> bool:
        return epoch < self._max_epochs and super()._has(epoch, shard)

    def _open_shard(self, epoch: int, shard: int) -> Shard:
        path, entry = self._arrival(epoch, shard).result()
        following = divmod(epoch * self._per_epoch + shard + 1, self._per_epoch)
        if self._has(*following):
            self._arrival(*following)
        return Shard(path, entry, verify=False)  # it was verified when it was fetched

    def _arrival(self, epoch: int, shard: int) -> Future[tuple[Path, ShardEntry]]:
        """The download of a shard: a future of (path, entry), ready when the shard is on disk."""
        name = shard_name(epoch, shard)
        if name not in self._arrivals:
            arrival = self._arrivals[name] = Future()

            def work() -> None:
                try:
                    arrival.set_result(self._fetch(name))
                except Exception as error:
                    arrival.set_exception(error)

            threading.Thread(target=work, daemon=True, name="fetch").start()
        return self._arrivals[name]

    def _fetch(self, name: str) -> tuple[Path, ShardEntry]:
        entry, folder = self._manifest.shards[name], self._cache / self.spec.folder

        def check(content: bytes) -> None:
            if len(content) != entry.bytes:
                raise ValueError(f"it has {len(content)} bytes instead of {entry.bytes}")
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise ValueError("its sha256 is not the manifest's")

        with locked(self._cache, f"{folder.name}.write"):  # ranks and runs that need the same shard fetch it once
            try:
                check_shard(folder / name, entry)
            except StreamError:
                remove_leftovers(folder)
                require_space(self._cache, entry.bytes, f"a shard of the stream of {self.spec.dataset}")
                write_atomically(folder / name, self._remote.read(f"{folder.name}/{name}", check))
        return folder / name, entry

    def close(self) -> None:
        """Stop fetching, and close the files."""
        self._remote.close()
        super().close()
