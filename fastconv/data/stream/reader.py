"""Reading a stream's shards, and computing what they lack."""

import threading
import warnings
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from fastconv.data.dataset import ImageData
from fastconv.data.stream.shards import Shard
from fastconv.data.stream.spec import Batch, Manifest, Stream, StreamSpec, shard_name
from fastconv.system.errors import StreamError


class ShardStream(Stream):
    """Reads shards, each checked when it is opened; blocks of which there is no shard are computed.

    Both give the same bytes: a batch depends neither on which shards there are nor on when they appear. Subclasses
    provide the shards.

    Args:
        data: the training images; None to read nothing but shards.
        manifest: the shards that there are.
    """

    OPEN_SHARDS = 4

    def __init__(self, spec: StreamSpec, data: ImageData | None, manifest: Manifest) -> None:
        super().__init__(spec)
        self._manifest = manifest
        self._per_epoch = len(spec.shards())
        self._data = data
        self._open: OrderedDict[tuple[int, int], Shard] = OrderedDict()

    def _block(self, epoch: int, block: int) -> Batch:
        shard, index = self.spec.place(block)
        if not self._has(epoch, shard):
            if self._data is None:
                raise StreamError(f"{shard_name(epoch, shard)} of {self.spec.folder} has not been written")
            return self.spec.compute(self._data, epoch, block)
        if (epoch, shard) not in self._open:
            self._open[epoch, shard] = self._open_shard(epoch, shard)
            if len(self._open) > self.OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[epoch, shard].block(index)

    def _has(self, epoch: int, shard: int) -> bool:
        return shard_name(epoch, shard) in self._manifest.shards

    @abstractmethod
    def _open_shard(self, epoch: int, shard: int) -> Shard:
        """A shard that there is."""

    def close(self) -> None:
        super().close()
        self._open.clear()


class PrecomputedStream(ShardStream):
    """Reads the shards on this machine's disk, on which `storage.in_use` keeps them meanwhile.

    Args:
        root: the folder that holds the stream's folder.
        data: the training images; None to read nothing but what is on disk.
        extend: called in a thread as `extend(epochs, on_shard=...)`, like `write_stream`, when the reader nears the end
            of what is on disk. Shards that other processes write are noticed without it.
        max_epochs: epochs beyond which it is not extended; None for no bound.
        verify: check each shard against its sha256, not only its size.

    Raises StreamError for a missing, truncated or altered shard.
    """

    def __init__(
        self,
        spec: StreamSpec,
        root: Path,
        data: ImageData | None,
        extend: Callable[..., object] | None = None,
        max_epochs: int | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__(spec, data, Manifest(spec, {}))
        self._max_epochs, self._verify = max_epochs, verify
        self._folder = root / spec.folder
        self._extend = extend
        self._extension: threading.Thread | None = None
        self._closed = threading.Event()
        self._version: tuple[int, int] | None = None
        self._read_manifest()

    def _block(self, epoch: int, block: int) -> Batch:
        if epoch + 1 >= self._epochs:
            self._grow(epoch)
        return super()._block(epoch, block)

    def _open_shard(self, epoch: int, shard: int) -> Shard:
        name = shard_name(epoch, shard)
        return Shard(self._folder / name, self._manifest.shards[name], self._verify)

    def _read_manifest(self) -> None:
        """Read the manifest if it is another than the one known: writers replace it as they get on."""
        try:
            status = (self._folder / "manifest.json").stat()
            version = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            version = (0, 0)
        if version != self._version:
            self._manifest = Manifest.read(self._folder, self.spec)
            self._epochs, self._version = self._manifest.epochs, version

    def _grow(self, epoch: int) -> None:
        busy = self._extension is not None and self._extension.is_alive()
        self._read_manifest()  # in this order: what an extension that is not busy has done is in the manifest
        wanted = epoch + 3 if self._max_epochs is None else min(epoch + 3, self._max_epochs)
        needed = epoch + 1 >= self._epochs and wanted > self._epochs
        if needed and self._extend is not None and not busy:
            self._extension = threading.Thread(target=self._try_to_extend, args=(wanted,), daemon=True)
            self._extension.start()

    def _try_to_extend(self, epochs: int) -> None:
        if self._extend is None:
            return
        try:
            self._extend(epochs, on_shard=self._stop_if_closed)
        except _ClosedError:
            pass
        except Exception as error:  # a full disk must not end a run that can go on
            self._extend = None
            warnings.warn(f"the stream cannot grow, so its further epochs are computed: {error}", stacklevel=2)

    def _stop_if_closed(self, done: int, total: int) -> None:
        if self._closed.is_set():
            raise _ClosedError

    def close(self) -> None:
        """Have a running extension stop after the shards in work; let go of the files."""
        self._closed.set()
        if self._extension is not None:
            self._extension.join()
        super().close()


class _ClosedError(Exception):
    """Nobody reads any more what an extension writes."""
