"""Decides how each image of an epoch is augmented, before any pixel is touched.

An epoch plan is a pure function of (stream seed, epoch, policy).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transform import PURPOSES, Drawn, Draws, Images, Transform, draw_words, purpose_of
from fastconv.system.errors import InputError


@dataclass(frozen=True, eq=False)
class SkipSchedule:
    """The images that every other epoch skips: `skips` int8 [N] is 1 for images that the epochs 0, 2, 4, ... skip, 2
    for images that the other epochs skip, and 0 for images that no epoch skips. As many images have a 1 as have a 2."""

    skips: NDArray[np.int8]

    def kept(self, epoch: int) -> NDArray[np.bool_]:
        """Which images an epoch includes, bool [N]."""
        kept: NDArray[np.bool_] = self.skips != 1 + epoch % 2
        return kept

    def times(self, epoch: int) -> NDArray[np.int64]:
        """How often each image came in the epochs before this one, int64 [N]."""
        by_turns = (epoch + (self.skips == 2)) // 2  # images with a 1 first come in epoch 1, those with a 2 in epoch 0
        return np.where(self.skips == 0, epoch, by_turns).astype(np.int64)

    @property
    def digest(self) -> str:
        """sha256 of the skips."""
        return hashlib.sha256(self.skips.astype(np.int8).tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class BalancedSampling:
    """Draws as many images of one class as of another into every epoch; `labels` int64 [N] are the images' classes."""

    labels: NDArray[np.int64]

    def draw(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of an epoch, int64 [M], class after class, from the M that it has, in a random order, int64 [M].

        Of a large class these are the first, of a small one all of them, again and again.
        """
        by_class = order[np.argsort(self.labels[order], kind="stable")]
        _, counts = np.unique(self.labels[order], return_counts=True)
        shares = np.full(len(counts), len(order) // len(counts))
        shares[: len(order) % len(counts)] += 1
        classes = np.split(by_class, np.cumsum(counts)[:-1])
        return np.concatenate([np.resize(rows, share) for rows, share in zip(classes, shares, strict=True)])


@dataclass(frozen=True)
class Step:
    """A transform and its decisions for each of the N positions of an epoch, [N] or [N, K]."""

    name: str
    transform: Transform
    drawn: Drawn


@dataclass(frozen=True)
class EpochPlan:
    """The decisions of one epoch: `order` int64 [N] is the image at each position of the stream, and `steps` are the
    transforms that are applied to it, one after the other."""

    order: NDArray[np.int64]
    steps: tuple[Step, ...]

    def drawn(self, name: str) -> Drawn:
        """The decisions of a transform. Raises KeyError for a transform that changes nothing in this epoch."""
        return {step.name: step.drawn for step in self.steps}[name]


@lru_cache(maxsize=4)
def plan_epoch(
    seed: int,
    epoch: int,
    samples: int,
    height: int,
    width: int,
    policy: Policy,
    skip_schedule: SkipSchedule | None = None,
    sampling: BalancedSampling | None = None,
) -> EpochPlan:
    """Decide one epoch: a random order in which each of the `samples` images that is not skipped comes exactly once, or
    as often as `sampling` says, each time with its own draws.

    Raises InputError for a user's own transform that cannot be made or does not draw one row for each image.
    """
    order = np.argsort(draw_words(seed, epoch, PURPOSES["order"], samples), kind="stable")
    if skip_schedule is not None:
        order = order[skip_schedule.kept(epoch)[order]]
    drawn_rows, times = order, np.full(samples, epoch)
    if skip_schedule is not None:
        times = skip_schedule.times(epoch)
    if sampling is not None:  # draws are for each time that an image comes, not for each image
        samples, times = len(order), np.full(len(order), epoch)
        drawn_rows = np.argsort(draw_words(seed, epoch, purpose_of("sampling"), samples), kind="stable")
        order = sampling.draw(order)[drawn_rows]
    steps = []
    for name, transform in policy.transforms().items():
        drawn = transform.draw(Draws(seed, epoch, samples, height, width, name, times))
        if drawn is None:
            continue
        if not isinstance(drawn, np.ndarray) or drawn.shape[:1] != (samples,):
            raise InputError(f"{name}.draw must return an array with a row for each of the {samples} images, or None")
        steps.append(Step(name, transform, drawn[drawn_rows]))
    return EpochPlan(order, tuple(steps))


def augment(images: Images, plan: EpochPlan, start: int, stop: int, fill: Images) -> Images:
    """Return the augmented images at positions [start, stop) of the epoch, uint8 [stop - start, H, W, C].

    Precomputed and online streams both use this function, so that their images are the same.

    Args:
        images: the training images, uint8 [N, H, W, C]; may be a memory map.
        plan: the epoch's decisions.
        start, stop: positions in the epoch.
        fill: colour of the constant padding, of areas that a policy uncovers, and of the cutout, uint8 [C].

    Raises InputError for a user's own transform that does not return such images.
    """
    rows = slice(start, stop)
    batch: Images = images[plan.order[rows]]
    for step in plan.steps:
        changed = step.transform.apply(batch, step.drawn[rows], fill)
        if changed is None:
            continue
        if not isinstance(changed, np.ndarray) or changed.shape != batch.shape or changed.dtype != np.uint8:
            shape = "x".join(map(str, batch.shape))
            raise InputError(f"{step.name}.apply must return images uint8, {shape}, or None for those changed in place")
        batch = np.require(changed, requirements=("C", "W"))  # a flipped or read-only view is no tensor
    return batch
