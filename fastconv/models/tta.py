"""Test-time augmentation: the logits of an image are a weighted mean over several views of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.models.configs import TTA


class ScoringTime(Protocol):
    """Decides, batch by batch, whether there is time to score further views."""

    def scored(self, images: int, seconds: float) -> None:
        """Record how many seconds it took to score one view of each image of a batch."""

    def allows(self, images: int, views: int) -> int:
        """The number of images, of `images` ones of that batch, to score next in `views` further views; 0 if there is
        no time."""


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
        return logits.float().softmax(1).amax(1) < self.confidence_threshold

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

    def logits(
        self, model: Callable[[Tensor], Tensor], images: Tensor, scoring_time: ScoringTime | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the images alone, and means over all their views, each float [B, classes].

        Args:
            model: maps images [B, C, H, W] to logits [B, classes].
            images: float [B, C, H, W].
            scoring_time: if it says that there is no time for further views of some images, their own logits stay; None
                for no time limit.
        """
        started = time.perf_counter()
        plain = model(images)
        if scoring_time:
            scoring_time.scored(len(images), time.perf_counter() - started)
        augmented = plain.float()
        if self.count == 1:
            return plain, augmented
        rows = torch.arange(len(images), device=images.device)
        if self.confidence_threshold < 1:
            rows = rows[self.uncertain(plain)]
        augmented = augmented.clone()
        while len(rows):
            count = scoring_time.allows(len(rows), self.count - 1) if scoring_time else len(rows)
            if not count:
                break
            chosen, rows = rows[:count], rows[count:]
            some = images if count == len(images) else images[chosen]
            (weight, _), *others = self.of(some)
            total = weight * augmented[chosen]
            for weight, view in others:
                total = total + weight * model(view).float()
            augmented[chosen] = total
        return plain, augmented


def views_of(tta: TTA, mirrors: bool) -> Views:
    """The views that the settings ask for; `mirrors` says whether the network was trained on mirror images too."""
    return Views(mirrors if tta.flip is None else tta.flip, tta.shift, tta.neighbors, tta.confidence_threshold)
