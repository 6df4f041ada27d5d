"""What happens to each image of an epoch, decided before any pixel is touched.

An epoch plan is a pure function of (stream seed, epoch, policy). Its draws are raw Philox words, keyed by seed and
epoch and mapped by the few lines below: numpy promises the bit generator's words across versions, but not what
`Generator` methods make of them, and a stream must have the same bytes for everyone.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

# Purposes of the draws: each has its own part of the counter space, so that adding one leaves the others as they are.
ORDER, CROP_Y, CROP_X, FLIP, CUTOUT_Y, CUTOUT_X, BRIGHTNESS, CONTRAST, POLICY = range(9)

FLIP_MODES = ("random", "alternating")

# Colours are changed in fixed point: so many bits of a level of brightness, and of the factor of contrast, are kept.
BRIGHTNESS_BITS, CONTRAST_BITS = 8, 16


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
    mode: str = "random"
    """`random`: a coin per image and epoch; `alternating`: a coin per image in the first epoch, then in each epoch the
    mirror of the one before (Jordan 2024, arXiv 2404.00498, section 3.6). Its probability is 0.5, or 0 for no flips."""


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness and contrast of each image, drawn evenly between minus and plus the limits.

    A pixel v of an image of mean m, both scaled to [0, 1] (m over all pixels and channels of the cropped image),
    becomes m + (v - m) (1 + c) + b, rounded to a byte and clipped, where |b| <= brightness and |c| <= contrast.
    Recipes whose brightness is of normalised pixels, as Hiverge's 0.14 for CIFAR-10, have it in standard deviations:
    times 0.25 it is the 0.035 to give here.
    """

    brightness: float = 0.0
    """Most that is added to or taken from the pixels of an image, in [0, 1] of their range; 0 switches it off."""
    contrast: float = 0.0
    """Most by which an image's differences from its mean grow or shrink, as a share of them; 0 switches it off."""


@dataclass(frozen=True)
class Cutout:
    """Cover one square, wholly inside the image, with the mean colour (DeVries & Taylor 2017, arXiv 1708.04552)."""

    size: int = 0
    """Side of the covered square in pixels; 0 switches it off."""


@dataclass(frozen=True)
class Policy:
    """The augmentation of a stream: crop, then flip, then colour, then one of torchvision's policies, then cutout."""

    crop: Crop = field(default_factory=Crop)
    flip: Flip = field(default_factory=Flip)
    cutout: Cutout = field(default_factory=Cutout)
    color_jitter: ColorJitter = field(default_factory=ColorJitter)
    auto: str = "none"
    """A policy of torchvision's: `rand_augment`, `trivial_augment`, `augmix`, or `none`. They take an image at a time,
    some thousand a second (augmix: some hundred), however many cores there are."""
    num_ops: int = 2
    """Operations that rand_augment applies to an image, one after the other."""
    magnitude: int = 9
    """Strength of the operations of rand_augment, in [0, 30]."""


@dataclass(frozen=True, eq=False)
class SkipSchedule:
    """Images that rest in every other epoch: `skips` int8 [N] is 1 for those that do in the epochs 0, 2, 4, ..., 2 for
    those that do in the others, and 0 for all that never rest. There are as many of either kind."""

    skips: np.ndarray

    def kept(self, epoch: int) -> np.ndarray:
        """Which images an epoch has, bool [N]."""
        return self.skips != 1 + epoch % 2

    @property
    def digest(self) -> str:
        """sha256 of the skips."""
        return hashlib.sha256(self.skips.astype(np.int8).tobytes()).hexdigest()


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's decisions, a row for each of the N positions of the stream.

    `order` int64 [N]: which image stands at the position. `crop_y`, `crop_x` int64 [N]: the window's corner in the
    padded image. `flip` bool [N]. `cutout_y`, `cutout_x` int64 [N]: the covered square's corner in the result.
    `brightness` int64 [N]: what is added, in levels of 255 times 2**BRIGHTNESS_BITS. `contrast` int64 [N]: what the
    factor on differences from the mean is above 1, times 2**CONTRAST_BITS. `auto_seeds` int64 [N]: seeds in
    [0, 2**32) of the policy's own draws. The last three are None where the policy has no use for them.
    """

    policy: Policy
    order: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    flip: np.ndarray
    cutout_y: np.ndarray
    cutout_x: np.ndarray
    brightness: np.ndarray | None = None
    contrast: np.ndarray | None = None
    auto_seeds: np.ndarray | None = None


def draw_words(seed: int, epoch: int, purpose: int, n: int) -> np.ndarray:
    """Return `n` independent 64-bit words, uint64 [n], the same on every machine and numpy version."""
    counter = np.array([0, 0, 0, purpose], dtype=np.uint64)
    return np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64), counter=counter).random_raw(n)


def below(words: np.ndarray, bound: int) -> np.ndarray:
    """Map words to integers in [0, bound), int64: the high half times the bound (bias below bound / 2**32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@lru_cache(maxsize=4)
def plan_epoch(
    seed: int,
    epoch: int,
    samples: int,
    height: int,
    width: int,
    policy: Policy,
    skip_schedule: SkipSchedule | None = None,
) -> EpochPlan:
    """Decide one epoch: each of `samples` images that does not rest exactly once, in a random order, each with its own
    draws.

    Word j of every purpose belongs to image j, whatever its place in the order. What alternates depends on the absolute
    epoch, and never on which epochs were planned before.
    """
    order = np.argsort(draw_words(seed, epoch, ORDER, samples), kind="stable")
    if skip_schedule is not None:
        order = order[skip_schedule.kept(epoch)[order]]

    def integers(purpose: int, bound: int) -> np.ndarray:
        return below(draw_words(seed, epoch, purpose, samples), bound)[order]

    def around_zero(purpose: int, limit: float, bits: int) -> np.ndarray:
        most = round(limit * 2**bits)
        return integers(purpose, 2 * most + 1) - most

    places = 2 * policy.crop.padding + 1
    size, colour = policy.cutout.size, policy.color_jitter
    has_colour = colour.brightness > 0 or colour.contrast > 0
    return EpochPlan(
        policy=policy,
        order=order,
        crop_y=integers(CROP_Y, places),
        crop_x=integers(CROP_X, places),
        flip=_flips(seed, epoch, samples, policy.flip)[order],
        cutout_y=integers(CUTOUT_Y, height - size + 1),
        cutout_x=integers(CUTOUT_X, width - size + 1),
        brightness=around_zero(BRIGHTNESS, colour.brightness * 255, BRIGHTNESS_BITS) if has_colour else None,
        contrast=around_zero(CONTRAST, colour.contrast, CONTRAST_BITS) if has_colour else None,
        auto_seeds=integers(POLICY, 2**32) if policy.auto != "none" else None,
    )


def _flips(seed: int, epoch: int, samples: int, flip: Flip) -> np.ndarray:
    """Whether each image, not each position, is mirrored in an epoch, bool [samples]."""
    alternating = flip.mode == "alternating"
    words = draw_words(seed, 0 if alternating else epoch, FLIP, samples)
    # 32 bits of a word against the probability: exact at 0 and 1.
    coins = (words >> np.uint64(32)) < np.uint64(round(flip.probability * 2**32))
    # A probability of 0 says that a mirrored image is another thing, so it is mirrored in no epoch.
    return ~coins if alternating and flip.probability > 0 and epoch % 2 else coins
