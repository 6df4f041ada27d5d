"""What happens to each image of an epoch, decided before any pixel is touched.

An epoch plan is a pure function of (stream seed, epoch, policy). Its draws are raw Philox words, keyed by seed and
epoch and mapped by the few lines below: numpy promises the bit generator's words across versions, but not what
`Generator` methods make of them, and a stream must have the same bytes for everyone.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

# Purposes of the draws: each has its own part of the counter space, so that adding one leaves the others as they are.
ORDER, CROP_Y, CROP_X, FLIP, CUTOUT_Y, CUTOUT_X = range(6)


@dataclass(frozen=True)
class Crop:
    """Pad every side, then cut a window of the image's own size at a random place."""

    padding: int = 0
    """Pixels added on each side before the random crop; 0 switches it off."""
    mode: str = "constant"
    """What the padding shows: `constant` (the training set's mean colour) or `reflect` (the image mirrored)."""


@dataclass(frozen=True)
class Flip:
    """Mirror the image left to right."""

    probability: float = 0.0
    """Chance, in [0, 1], that an image is mirrored; 0 switches it off."""


@dataclass(frozen=True)
class Cutout:
    """Cover one square, wholly inside the image, with the mean colour (DeVries & Taylor 2017, arXiv 1708.04552)."""

    size: int = 0
    """Side of the covered square in pixels; 0 switches it off."""


@dataclass(frozen=True)
class Policy:
    """The augmentation of a stream: crop, then flip, then cutout."""

    crop: Crop = field(default_factory=Crop)
    flip: Flip = field(default_factory=Flip)
    cutout: Cutout = field(default_factory=Cutout)


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's decisions, a row for each position of the stream.

    `order` int64 [N]: which image stands at the position. `crop_y`, `crop_x` int64 [N]: the window's corner in the
    padded image. `flip` bool [N]. `cutout_y`, `cutout_x` int64 [N]: the covered square's corner in the result.
    """

    policy: Policy
    order: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    flip: np.ndarray
    cutout_y: np.ndarray
    cutout_x: np.ndarray


def draw_words(seed: int, epoch: int, purpose: int, n: int) -> np.ndarray:
    """Return `n` independent 64-bit words, uint64 [n], the same on every machine and numpy version."""
    counter = np.array([0, 0, 0, purpose], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=counter).random_raw(n)


def below(words: np.ndarray, bound: int) -> np.ndarray:
    """Map words to integers in [0, bound), int64: the high half times the bound (bias below bound / 2**32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@lru_cache(maxsize=4)
def plan_epoch(seed: int, epoch: int, samples: int, height: int, width: int, policy: Policy) -> EpochPlan:
    """Decide one epoch: each of `samples` images exactly once, in a random order, each with its own draws.

    Word j of every purpose belongs to image j, whatever its place in the order.
    """
    order = np.argsort(draw_words(seed, epoch, ORDER, samples), kind="stable")

    def integers(purpose: int, bound: int) -> np.ndarray:
        return below(draw_words(seed, epoch, purpose, samples), bound)[order]

    places = 2 * policy.crop.padding + 1
    size = policy.cutout.size
    # 32 bits of a word against the probability: exact at 0 and 1.
    chance = (draw_words(seed, epoch, FLIP, samples) >> np.uint64(32)) < np.uint64(
        round(policy.flip.probability * 2**32)
    )
    return EpochPlan(
        policy=policy,
        order=order,
        crop_y=integers(CROP_Y, places),
        crop_x=integers(CROP_X, places),
        flip=chance[order],
        cutout_y=integers(CUTOUT_Y, height - size + 1),
        cutout_x=integers(CUTOUT_X, width - size + 1),
    )
