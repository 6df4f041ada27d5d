"""Decoded images with their labels, and the statistics of their pixels."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from fastconv.data.augment.plan import SkipSchedule


@dataclass(frozen=True)
class ImageData:
    """Decoded images: `images` uint8 [N, H, W, C], `labels` int64 [N], class names, and a sha256 over both arrays.

    `note` is a sentence about images that were left out; `skip_schedule` says which images every other epoch skips;
    `hashes`, uint64 [N], identify the images of a user's own data set by their content (fastconv.data.hashes).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str
    note: str = ""
    skip_schedule: SkipSchedule | None = None
    hashes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "ImageData":
        """The images at `rows` (int64 [M]), copied, with a digest of their own."""
        digest = hashlib.sha256(self.digest.encode() + np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
        hashes = None if self.hashes is None else self.hashes[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], digest=digest, hashes=hashes)


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of pixel values scaled to [0, 1]; exact, from histograms.

    The deviation of a channel that has one value only is given as 1, so that normalising it gives 0.
    """
    channels = images.shape[3]
    histogram = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 5000):  # in parts: bincount widens its input to 64 bits
        part = images[start : start + 5000]
        for channel in range(channels):
            histogram[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    share = histogram / histogram.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1
    return tuple(mean.tolist()), tuple(std.tolist())
