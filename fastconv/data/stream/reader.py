"""Reads a stream's shards, and computes blocks that they lack."""

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from fastconv.data.dataset import ImageData
from fastconv.data.stream.manifest import MANIFEST, Manifest, shard_name
from fastconv.data.stream.shards import Block, Shard
from fastconv.data.stream.spec import Batch, Stream, StreamSpec
from fastconv.system.errors import StreamError, warn

# Epochs beyond the one that is read, up to which a stream is extended when the reader nears the last epoch on disk.
EPOCHS_AHEAD = 2


class ShardStream(Stream):
    """Reads shards, each checked when it is opened, and computes blocks without a shard.

    Both ways give the same bytes: a batch does not depend on which shards exist or when they appear. Subclasses provide
    the shards.

    Args:
        data: the training images; None to read shards only.
        manifest: the shards that exist.
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
        if (epoch, shard) not in self._open:
            opened = self._open_shard(epoch, shard) if self._has(epoch, shard) else None
            if opened is None:
                return self._compute(epoch, block)
            self._open[epoch, shard] = opened
            if len(self._open) > self.OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[epoch, shard].block(index)

    def _compute(self, epoch: int, block: int) -> Batch:
        """Compute a block without a shard. Raises StreamError if there are no images to compute it from."""
        if self._data is None:
            raise StreamError(f"{shard_name(epoch, self.spec.place(block)[0])} of {self.spec.folder} is not there")
        return self.spec.compute(self._data, epoch, block)

    def _stored_blocks(self, epoch: int, shard: int) -> list[Block]:
        """The content that a shard must have."""
        return self.spec.stored_blocks(epoch, self.spec.shards()[shard])

    def _has(self, epoch: int, shard: int) -> bool:
        """Whether a shard of an epoch exists."""
        return shard_name(epoch, shard) in self._manifest.shards

    @abstractmethod
    def _open_shard(self, epoch: int, shard: int) -> Shard | None:
        """Open a shard that exists; None if its blocks are to be computed nevertheless."""

    def close(self) -> None:
        super().close()
        self._open.clear()


class PrecomputedStream(ShardStream):
    """Reads the shards on this machine's disk. `cache.in_use` protects them from removal meanwhile.

    Args:
        root: the folder that holds the stream's folder.
        data: the training images; None to read shards only.
        extend: called in a thread as `extend(epochs, on_shard=...)`, like `write_stream`, when the reader nears the
            last shard on disk. Shards that other processes write are found without it.
        max_epochs: number of epochs beyond which the stream is not extended; None for no limit.
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
        return Shard(self._folder / name, self._manifest.shards[name], self._stored_blocks(epoch, shard), self._verify)

    def _read_manifest(self) -> None:
        """Read the manifest again if it has changed: writers replace it as they make progress."""
        try:
            status = (self._folder / MANIFEST).stat()
            version = (status.st_ino, status.st_mtime_ns)
        except FileNotFoundError:
            version = (0, 0)
        if version != self._version:
            self._manifest = Manifest.read(self._folder, self.spec)
            self._epochs, self._version = self._manifest.epochs, version

    def _grow(self, epoch: int) -> None:
        """Start to write further epochs, unless they are there, or being written, or beyond the last one wanted."""
        busy = self._extension is not None and self._extension.is_alive()
        self._read_manifest()  # read it first: it then includes everything that an idle extension has written
        wanted = epoch + 1 + EPOCHS_AHEAD
        if self._max_epochs is not None:
            wanted = min(wanted, self._max_epochs)
        needed = epoch + 1 >= self._epochs and wanted > self._epochs
        if needed and self._extend is not None and not busy:
            self._extension = threading.Thread(target=self._try_to_extend, args=(wanted,), daemon=True)
            self._extension.start()

    def _try_to_extend(self, epochs: int) -> None:
        """Write the first `epochs` epochs, in a thread. What fails once is not tried again."""
        if self._extend is None:
            return
        try:
            self._extend(epochs, on_shard=self._stop_if_closed)
        except _ClosedError:
            pass
        except Exception as error:  # a full disk must not end a run that can go on without it
            self._extend = None
            warn(f"the stream cannot grow, so its further epochs are computed: {error}")

    def _stop_if_closed(self, done: int, total: int) -> None:
        if self._closed.is_set():
            raise _ClosedError

    def close(self) -> None:
        """Stop a running extension after its current shards, and close the files."""
        self._closed.set()
        if self._extension is not None:
            self._extension.join()
        super().close()


class _ClosedError(Exception):
    """The reader of an extension's shards was closed."""
