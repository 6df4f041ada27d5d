"""The training stream: an endless sequence of augmented samples, epoch after epoch.

`OnlineStream` computes them during training, and `device.DeviceStream` on the device that trains. `writer.write_stream`
stores the same bytes, which `reader.PrecomputedStream` reads from disk and `remote.RemoteStream` from a server; a
`manifest.Manifest` lists them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields

import numpy as np

from fastconv.data.augment.plan import EpochPlan, augment, plan_epoch
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.auto_augment import library_versions
from fastconv.data.dataset import ImageData, mean_and_std
from fastconv.data.image_rows import MAPPED_BYTES
from fastconv.data.stream.shards import Block
from fastconv.system.json_text import json_digest
from fastconv.system.memory import release_pages

FORMAT = 1
# A block is the unit of augmenting and reading: large enough to make Python's cost per block negligible, small enough
# to stay in the caches.
BLOCK_BYTES = 4 * 2**20
BLOCK_SAMPLES = 1000
BLOCKS_PER_SHARD = 10
# Fingerprints use the first names of settings that have been renamed since.
FIRST_NAMES = {"color_jitter": "colour", "auto": "policy", "skip_schedule": "resting"}

Batch = tuple[np.ndarray, np.ndarray]
"""Images uint8 [B, H, W, C] and labels int64 [B]."""


@dataclass(frozen=True)
class StreamSpec:
    """All values that decide the bytes of a stream, and no others. The number of epochs is not among them."""

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
    """Mean and standard deviation per channel, of pixel values scaled to [0, 1]."""
    policy: Policy
    seed: int
    skip_schedule: str = ""
    """sha256 of the skip schedule (which images are skipped in which epochs); empty if no image is skipped."""
    sampling: str = ""
    """`balanced` if each epoch has as many images of one class as of another; empty if it has each image once."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that differ between any two streams whose bytes could differ."""
        # Settings at their default are left out, unless the first format had them, and renamed settings keep their
        # first name. So older streams stay valid when settings are added or renamed.
        settings = {key: value for key, value in asdict(self).items() if value != SETTINGS_LEFT_OUT.get(key, MISSING)}
        policy = {FIRST_NAMES.get(key, key): value for key, value in self.policy.described().items()}
        described = {FIRST_NAMES.get(key, key): value for key, value in settings.items()}
        described |= {"format": FORMAT, "block": self.block, "policy": policy, **self.libraries}
        if self.skip_schedule and self.policy.flip.alternates and not self.sampling:
            # Earlier versions alternated by epoch: images that skip every other one were always shown the same way.
            described["alternating"] = "by image"
        return json_digest(described)

    @property
    def libraries(self) -> dict[str, dict[str, str]]:
        """The versions of the libraries that affect the bytes, under one key; empty if none does."""
        return {} if self.policy.auto == "none" else {"libraries": library_versions()}

    @property
    def sources(self) -> dict[str, list[str]]:
        """The sha256 of the source file of each of the user's own transforms, under one key; empty without any."""
        return {"sources": self.policy.sources()} if self.policy.extra else {}

    @property
    def folder(self) -> str:
        """Name of the stream's folder."""
        return f"{self.dataset}-{self.fingerprint}"

    @property
    def fill(self) -> np.ndarray:
        """The mean colour, uint8 [C]. After normalisation, padding of this colour is zero."""
        return np.round(np.array(self.mean) * 255).astype(np.uint8)

    @property
    def block(self) -> int:
        """Samples in a full block."""
        return max(1, min(BLOCK_SAMPLES, BLOCK_BYTES // math.prod(self.shape)))

    @property
    def epoch_bytes(self) -> int:
        """Bytes of one epoch's pixels and labels; the tar headers add less than 1 %."""
        return self.samples * (math.prod(self.shape) + 8)

    def shards(self) -> list[range]:
        """The blocks of each shard of an epoch."""
        blocks = -(-self.samples // self.block)
        return [range(at, min(at + BLOCKS_PER_SHARD, blocks)) for at in range(0, blocks, BLOCKS_PER_SHARD)]

    def place(self, block: int) -> tuple[int, int]:
        """The (shard of the epoch, block of the shard) of a block of an epoch."""
        return divmod(block, BLOCKS_PER_SHARD)

    def stored_blocks(self, epoch: int, blocks: range) -> list[Block]:
        """The content that a shard with some blocks of an epoch must have."""
        rows = [min(self.block, self.samples - block * self.block) for block in blocks]
        return [
            Block(f"{epoch:04d}-{block:05d}", (count, *self.shape), len(self.classes))
            for block, count in zip(blocks, rows, strict=True)
        ]

    def plan(self, data: ImageData, epoch: int) -> EpochPlan:
        """Decide one epoch of the stream of these images."""
        shape = self.shape[:2]
        return plan_epoch(self.seed, epoch, len(data), *shape, self.policy, data.skip_schedule, data.sampling)

    def compute(self, data: ImageData, epoch: int, block: int) -> Batch:
        """Compute one block of an epoch: images uint8 [B, H, W, C], labels int64 [B]."""
        plan = self.plan(data, epoch)
        start, stop = block * self.block, min((block + 1) * self.block, self.samples)
        images = augment(data.images, plan, start, stop, self.fill)
        if data.images.nbytes > MAPPED_BYTES:  # else the pages of all blocks add up
            release_pages(data.images)
        return images, data.labels[plan.order[start:stop]]


# Fields that are left out of the fingerprint if they have these values.
SETTINGS_LEFT_OUT = {each.name: each.default for each in fields(StreamSpec) if each.default is not MISSING}


class Stream(ABC):
    """The epochs of a stream as one concatenated sequence of samples. Subclasses provide the blocks."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        # The last block is kept, since a block is read in several parts, one after the other.
        self._at: tuple[int, int] | None = None
        self._current: Batch = (np.empty(0, np.uint8), np.empty(0, np.int64))

    def rows(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the endless sequence: images uint8 [n, H, W, C], labels int64 [n]."""
        parts = list(self._parts(start, stop))
        if len(parts) == 1:
            return parts[0]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _parts(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the same samples, in one part for each block that they lie in."""
        while start < stop:
            epoch, position = divmod(start, self.spec.samples)
            block, skip = divmod(position, self.spec.block)
            if self._at != (epoch, block):
                self._current = self._block(epoch, block)
                self._at = (epoch, block)
            images, labels = self._current
            taken = min(stop - start, len(labels) - skip)
            yield images[skip : skip + taken], labels[skip : skip + taken]
            start += taken

    @abstractmethod
    def _block(self, epoch: int, block: int) -> Batch:
        """Images uint8 [B, H, W, C] and labels int64 [B] of one block of an epoch."""

    def close(self) -> None:
        """Close the files."""
        self._at, self._current = None, (np.empty(0, np.uint8), np.empty(0, np.int64))


class OnlineStream(Stream):
    """Augments during training. It needs no disk and gives the same bytes."""

    def __init__(self, spec: StreamSpec, data: ImageData) -> None:
        super().__init__(spec)
        self._data = data

    def _block(self, epoch: int, block: int) -> Batch:
        return self.spec.compute(self._data, epoch, block)


def stream_spec(images: ImageData, policy: Policy, seed: int) -> StreamSpec:
    """Describe the stream of a data set's training images. Its skip schedule may leave some out of some epochs."""
    mean, std = mean_and_std(images.images)
    skip_schedule = images.skip_schedule
    return StreamSpec(
        dataset=images.name,
        digest=images.digest,
        classes=images.classes,
        shape=images.images.shape[1:],
        samples=len(images) if skip_schedule is None else int(skip_schedule.kept(0).sum()),
        mean=mean,
        std=std,
        policy=policy,
        seed=seed,
        skip_schedule="" if skip_schedule is None else skip_schedule.digest,
        sampling="" if images.sampling is None else "balanced",
    )
