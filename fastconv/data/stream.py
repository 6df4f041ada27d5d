"""The training stream: augmented epochs, one after the other, as one endless sequence of samples.

`PrecomputedStream` reads what `writer.write_stream` stored; `OnlineStream` computes the same bytes while training.
"""

import hashlib
import json
import threading
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastconv.data.augment import augment
from fastconv.data.plan import Policy, plan_epoch
from fastconv.data.shards import Shard, ShardEntry
from fastconv.data.sources import ImageData
from fastconv.data.storage import write_atomically
from fastconv.errors import StreamError

FORMAT = 1
# A block is the unit of augmenting and reading: so large that Python's cost per block vanishes, so small that it stays
# in the caches.
BLOCK_BYTES = 4 * 2**20
BLOCK_SAMPLES = 1000
BLOCKS_PER_SHARD = 10

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class StreamSpec:
    """Everything that decides the bytes of a stream, and nothing else: not the number of epochs."""

    dataset: str
    digest: str
    """sha256 of the training images and labels."""
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    samples: int
    """Images per epoch."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, of pixel values scaled to [0, 1]."""
    policy: Policy
    seed: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits that differ whenever a byte of the stream could."""
        text = json.dumps({"format": FORMAT, "block": self.block, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the stream's folder."""
        return f"{self.dataset}-{self.fingerprint}"

    @property
    def fill(self) -> np.ndarray:
        """The mean colour, uint8 [C]: what lies outside an image is zero once it is normalised."""
        return np.round(np.array(self.mean) * 255).astype(np.uint8)

    @property
    def block(self) -> int:
        """Samples in a full block."""
        return max(1, min(BLOCK_SAMPLES, BLOCK_BYTES // int(np.prod(self.shape))))

    @property
    def epoch_bytes(self) -> int:
        """Bytes of one epoch's pixels and labels; the tar headers add less than 1 %."""
        return self.samples * (int(np.prod(self.shape)) + 8)

    def shards(self) -> list[range]:
        """The blocks of each shard of an epoch."""
        blocks = -(-self.samples // self.block)
        return [range(at, min(at + BLOCKS_PER_SHARD, blocks)) for at in range(0, blocks, BLOCKS_PER_SHARD)]

    def compute(self, data: ImageData, epoch: int, block: int) -> Batch:
        """One block of an epoch: images uint8 [B, H, W, C], labels int64 [B]."""
        height, width, _ = self.shape
        plan = plan_epoch(self.seed, epoch, self.samples, height, width, self.policy)
        start, stop = block * self.block, min((block + 1) * self.block, self.samples)
        return augment(data.images, plan, start, stop, self.fill), data.labels[plan.order[start:stop]]


def shard_name(epoch: int, shard: int) -> str:
    """Path of a shard inside its stream."""
    return f"epoch-{epoch:04d}/shard-{shard:04d}.tar"


@dataclass(frozen=True)
class Manifest:
    """The contents of a stream's `manifest.json`."""

    spec: StreamSpec
    shards: dict[str, ShardEntry]

    @property
    def epochs(self) -> int:
        """How many epochs, from the first on, are complete."""
        per_epoch = len(self.spec.shards())
        epoch = 0
        while all(shard_name(epoch, shard) in self.shards for shard in range(per_epoch)):
            epoch += 1
        return epoch

    def write(self, folder: Path) -> None:
        """Store the manifest in the stream's folder, atomically."""
        shards = {name: asdict(self.shards[name]) for name in sorted(self.shards)}
        content = {"format": FORMAT, "fingerprint": self.spec.fingerprint, **asdict(self.spec), "shards": shards}
        write_atomically(folder / "manifest.json", json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path, spec: StreamSpec) -> "Manifest":
        """Read the manifest of a stream that must be the one `spec` describes; an absent one has no shards.

        Raises StreamError for a manifest that is damaged, of another format, or of another stream.
        """
        path = folder / "manifest.json"
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise StreamError(f"{path} has format {content['format']}, this fastconv reads format {FORMAT}")
            if content["fingerprint"] != spec.fingerprint:
                raise StreamError(f"{path} belongs to another stream ({content['fingerprint']})")
            return cls(spec, {name: ShardEntry(**entry) for name, entry in content["shards"].items()})
        except FileNotFoundError:
            return cls(spec, {})
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise StreamError(f"{path} is damaged and cannot be read") from error


class Stream(ABC):
    """Epochs of a stream as one concatenated sequence of samples; subclasses provide the blocks."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec

    def rows(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the endless sequence: images uint8 [n, H, W, C], labels int64 [n]."""
        parts = list(self._parts(start, stop))
        if len(parts) == 1:
            return parts[0]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _parts(self, start: int, stop: int) -> Iterator[Batch]:
        while start < stop:
            epoch, position = divmod(start, self.spec.samples)
            block, skip = divmod(position, self.spec.block)
            images, labels = self._block(epoch, block)
            taken = min(stop - start, len(labels) - skip)
            yield images[skip : skip + taken], labels[skip : skip + taken]
            start += taken

    @abstractmethod
    def _block(self, epoch: int, block: int) -> Batch:
        """Images and labels of one block."""

    def close(self) -> None:  # noqa: B027 - a stream may hold nothing
        """Let go of files."""


class OnlineStream(Stream):
    """Augments while training: no disk, the same bytes."""

    def __init__(self, spec: StreamSpec, data: ImageData) -> None:
        super().__init__(spec)
        self._data = data
        self._at: tuple[int, int] | None = None
        self._current: Batch | None = None

    def _block(self, epoch: int, block: int) -> Batch:
        if self._at != (epoch, block):
            self._current = self.spec.compute(self._data, epoch, block)
            self._at = (epoch, block)
        return self._current


class PrecomputedStream(Stream):
    """Reads shards, each checked when it is opened; blocks that are not on disk are computed.

    Both give the same bytes: a batch depends neither on how far the stream has been written nor on who writes it.
    `storage.in_use` keeps the shards on disk meanwhile.

    Args:
        data: the training images; None to read nothing but what is on disk.
        extend: called in a thread as `extend(epochs, on_shard=...)`, like `write_stream`, when the reader nears the end
            of what is on disk. Shards that other processes write are noticed without it.
        max_epochs: epochs beyond which it is not extended; None for no bound.
        verify: check each shard against its sha256, not only its size.

    Raises StreamError for a missing, truncated or altered shard.
    """

    OPEN_SHARDS = 4

    def __init__(
        self,
        spec: StreamSpec,
        root: Path,
        data: ImageData | None,
        extend: Callable[..., object] | None = None,
        max_epochs: int | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__(spec)
        self._online = None if data is None else OnlineStream(spec, data)
        self._max_epochs, self._verify = max_epochs, verify
        self._folder = root / spec.folder
        self._extend = extend
        self._extension: threading.Thread | None = None
        self._closed = threading.Event()
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._version: tuple[int, int] | None = None
        self._read_manifest()

    def _block(self, epoch: int, block: int) -> Batch:
        if epoch + 1 >= self._epochs:
            self._grow(epoch)
        shard, index = divmod(block, BLOCKS_PER_SHARD)
        name = shard_name(epoch, shard)
        if name not in self._manifest.shards:
            if self._online is None:
                raise StreamError(f"{self._folder / name} has not been written")
            return self._online._block(epoch, block)
        if name not in self._open:
            self._open[name] = Shard(self._folder / name, self._manifest.shards[name], self._verify)
            if len(self._open) > self.OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[name].block(index)

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
        self._open.clear()


class _ClosedError(Exception):
    """Nobody reads any more what an extension writes."""
