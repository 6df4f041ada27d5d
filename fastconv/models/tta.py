"""Test-time augmentation: the logits of an image are a weighted mean over several views of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.models.configs import TTA


class ScoringTime(Protocol):
    """Decides, batch by batch, whether there is time to score further views."""

    def scored(self, images: int, seconds: float) -> None:
        """Record how many seconds it took to score one view of each image of a batch."""

    def has_time(self, images: int) -> bool:
        """Whether to score the next batch, of `images` images, in one view."""

    def viewed(self, views: int, seconds: float) -> None:
        """Record how many seconds it took to score further views, of all images together."""

    def allows(self, images: int, views: int) -> int:
        """The number of images, of `images` ones, to score next in `views` further views; 0 if there is no time."""


@dataclass(frozen=True)
class Views:
    """The views of an image to score; the first is the image itself (Jordan 2024, arXiv 2404.00498).

    Args:
        flip: also score each view flipped left to right, with the same weight.
        shift: pixels by which views are shifted along the diagonal, with a reflected border; 0 for none. The two
            shifted views together weigh as much as the centre.
        neighbors: score shifts in all eight directions instead, each with the weight of the centre.
        confidence_threshold: only images whose highest probability is below this get further views; the others keep
            their own logits. 1 for all images.
    """

    flip: bool = False
    shift: int = 0
    neighbors: bool = False
    confidence_threshold: float = 1.0

    @property
    def count(self) -> int:
        """Number of views of an image that gets all of them, including the image itself."""
        return (1 + self.flip) * (1 + len(self._shifts))

    def scored(self, uncertain: float) -> float:
        """Mean number of views per image if this share of the images, in [0, 1], is uncertain and gets all views."""
        return 1 + (self.count - 1) * (uncertain if self.confidence_threshold < 1 else 1.0)

    def uncertain(self, logits: Tensor) -> Tensor:
        """Which images are uncertain enough to get all views, bool [B], from their own logits [B, classes]."""
        confidence = logits.float().softmax(1).amax(1)
        return (confidence < self.confidence_threshold) | (self.confidence_threshold >= 1)

    @property
    def _shifts(self) -> list[tuple[int, int]]:
        """The shifts of the views, in pixels (down, right)."""
        if not self.shift:
            return []
        if not self.neighbors:
            return [(-self.shift, -self.shift), (self.shift, self.shift)]
        steps = (-self.shift, 0, self.shift)
        return [(down, right) for down in steps for right in steps if down or right]

    def of(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Yield (weight, view) of images float [B, C, H, W]. Weights sum to 1; the first view is the image itself."""
        height, width = images.shape[2:]
        shifts, each = self._shifts, 1 / 9 if self.neighbors else 1 / 4
        views = [(1 - each * len(shifts), images)]
        if shifts:
            padded = F.pad(images, (self.shift,) * 4, mode="reflect")
            for down, right in shifts:
                top, left = self.shift + down, self.shift + right
                views.append((each, padded[:, :, top : top + height, left : left + width]))
        for weight, view in views:
            yield weight / (1 + self.flip), view
        for weight, view in views if self.flip else ():
            yield weight / 2, view.flip(3)

    def logits(self, model: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the images alone, and means over all their views, each float [B, classes].

        Args:
            model: maps images [B, C, H, W] to logits [B, classes].
            images: float [B, C, H, W].
        """
        plain = model(images)
        augmented = plain.float()
        if self.count == 1:
            return plain, augmented
        if self.confidence_threshold >= 1:
            return plain, self.mean(model, images, augmented)
        augmented, rows = augmented.clone(), self.uncertain(plain).nonzero()[:, 0]
        if len(rows):
            augmented[rows] = self.mean(model, images[rows], augmented[rows])
        return plain, augmented

    def mean(self, model: Callable[[Tensor], Tensor], images: Tensor, plain: Tensor) -> Tensor:
        """Mean logits of all views, float [B, classes], of images whose own logits `plain` are known."""
        (weight, _), *others = self.of(images)
        total = weight * plain
        for weight, view in others:
            total = total + weight * model(view).float()
        return total


def logits_in_time(
    model: Callable[[Tensor], Tensor],
    images: Callable[[Tensor], Tensor],
    plain: Tensor,
    sets: Sequence[Views],
    scoring_time: ScoringTime,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Means over as many views as there is time for, least certain images first, once all images were scored alone.

    All uncertain images get the views of the first set, then those of the next one, and so on; each image has the mean
    over one whole set. If there are several sets, the other images follow in the same way.

    Args:
        model: maps images float [B, C, H, W] to logits [B, classes].
        images: maps row numbers int64 [B] to these images, float [B, C, H, W].
        plain: logits [N, classes] of the images alone.
        sets: sets of views, each larger than the one before; none for no further views.
        scoring_time: says when the time is over.
        batch_size: images at most whose further views are scored together.

    Returns logits float [N, classes], and the number of views of each image, int64 [N].
    """
    augmented, counts = plain.float().clone(), torch.ones(len(plain), dtype=torch.int64)
    if not sets:
        return augmented, counts
    order = augmented.softmax(1).amax(1).argsort(stable=True)
    uncertain = int(sets[0].uncertain(plain).sum())
    for part in (order[:uncertain], order[uncertain:] if len(sets) > 1 else order[:0]):
        for views in sets:
            rows = part
            while len(rows):
                count = scoring_time.allows(min(len(rows), batch_size), views.count - 1)
                if not count:
                    return augmented, counts
                chosen, rows = rows[:count], rows[count:]
                started = time.perf_counter()
                augmented[chosen] = views.mean(model, images(chosen), plain[chosen].float())
                scoring_time.viewed(count * (views.count - 1), time.perf_counter() - started)
                counts[chosen] = views.count
    return augmented, counts


def views_of(tta: TTA, mirrors: bool) -> Views:
    """The views that the settings ask for; `mirrors` says whether the network was trained on mirror images too."""
    return Views(mirrors if tta.flip is None else tta.flip, tta.shift, tta.neighbors, tta.confidence_threshold)


def view_sets(tta: TTA, mirrors: bool) -> list[Views]:
    """The views that the settings ask for, and the larger sets for the time that is left after that (`tta.extend`).

    Without the first one, if it is the image alone.
    """
    sets = [views_of(tta, mirrors)]
    if tta.extend != "none":
        flip, diagonal = (
            replace(sets[0], flip=mirrors, shift=0),
            replace(sets[0], flip=mirrors, shift=max(1, tta.shift)),
        )
        sets += [flip, replace(diagonal, neighbors=False)]
        sets += [replace(diagonal, neighbors=True)] * (tta.extend == "neighbors")
    return [views for at, views in enumerate(sets) if views.count > max((each.count for each in sets[:at]), default=1)]
