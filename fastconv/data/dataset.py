"""Decoded images with their labels, and the statistics of their pixels."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastconv.data.augment.plan import BalancedSampling, SkipSchedule
from fastconv.data.image_rows import choose_rows
from fastconv.data.sources.levels import Levels
from fastconv.system.memory import release_pages

# Pixels that are counted at a time.
PIXELS = 4 * 2**20
# The most images to score at once, and the most values of their pixels: those of 500 colour images of 64x64. DavidNet
# of width 64 takes 80 MB for a photograph of 224x224, and 1.6 MB for an image of 32x32 (a CPU, fp32).
BATCH_SIZE, BATCH_VALUES = 500, 500 * 64 * 64 * 3


@dataclass(frozen=True)
class ImageData:
    """Decoded images: `images` uint8 [N, H, W, C], `labels` int64 [N], class names, and a sha256 over both arrays.

    `note` says, in one line, what was left out; `levels` says how values of more than eight bits became bytes,
    None if there were none; `skip_schedule` says which images every other epoch skips; `sampling` how often images come
    in an epoch, None for once; `hashes`, uint64 [N], identify the images of a user's own data set by their content
    (fastconv.data.hashes); `resize` says how those that were not square became so (`RESIZES`).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str
    note: str = ""
    skip_schedule: SkipSchedule | None = None
    sampling: BalancedSampling | None = None
    levels: Levels | None = None
    hashes: np.ndarray | None = None
    resize: str = "crop"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """The shorter side of an image, in pixels."""
        return int(min(self.images.shape[1:3]))

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colours."""
        return int(self.images.shape[3])

    def take(self, rows: np.ndarray) -> "ImageData":
        """The images at `rows` (int64 [M]), with a digest of their own; large ones are not copied (`image_rows`)."""
        digest = hashlib.sha256(self.digest.encode() + np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
        hashes = None if self.hashes is None else self.hashes[rows]
        return replace(
            self, images=choose_rows([self.images], rows), labels=self.labels[rows], digest=digest, hashes=hashes
        )


def evenly_spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` rows of `count` images, int64, as far apart as possible."""
    return np.linspace(0, count, min(count, most), endpoint=False).astype(np.int64)


def images_at_once(shape: Sequence[int]) -> int:
    """The number of images of a shape, such as [H, W, C], to score at once, so that large ones fit into memory."""
    return max(1, min(BATCH_SIZE, BATCH_VALUES // math.prod(shape)))


def representative_rows(labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` rows, int64, of images with these labels, int64 [N], that stand for all of them.

    The first ones, or evenly spread ones where images are in the order of their classes, as those of one's own data
    sets are (`fastconv.data.sources.ordering`), or come class after class in another order: the first ones then lack
    some class.
    """
    in_order = bool((labels[:-1] <= labels[1:]).all())
    lacks_some = len(np.unique(labels[:most])) < len(np.unique(labels))
    return evenly_spread(len(labels), most) if in_order or lacks_some else np.arange(min(most, len(labels)))


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of pixel values scaled to [0, 1]; exact, from histograms.

    The deviation of a channel that has one value only is given as 1, so that normalising it gives 0.
    """
    channels = images.shape[3]
    histogram = np.zeros((channels, 256), np.int64)
    step = max(1, PIXELS // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):  # in parts: bincount widens its input to 64 bits
        part = images[start : start + step]
        for channel in range(channels):
            histogram[channel] += _histogram(part[..., channel].ravel())
        release_pages(images)
    share = histogram / histogram.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1
    return tuple(mean.tolist()), tuple(std.tolist())


def _histogram(values: np.ndarray) -> np.ndarray:
    """How often each level occurs, int64 [256]. Counts pairs of pixels, in half of the time that pixels take."""
    even = len(values) // 2 * 2
    pairs = np.bincount(values[:even].view(np.uint16), minlength=256 * 256).reshape(256, 256)
    counts: np.ndarray = pairs.sum(0) + pairs.sum(1) + np.bincount(values[even:], minlength=256)
    return counts
