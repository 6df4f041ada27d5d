"""Test-time augmentation: a network's answer as the mean of its answers to several views of an image."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from fastconv.models.configs import TTA

# Share of the images that are taken to be uncertain as long as nothing is known of them.
UNCERTAIN = 0.5


class ScoringTime(Protocol):
    """Says whether there is time to score more views, while images are scored one batch after the other."""

    def note(self, images: int, seconds: float) -> None:
        """Take in how many seconds the images of a batch themselves took."""

    def allows(self, images: int, views: int) -> bool:
        """Whether there is time for `views` more views of `images` images."""


@dataclass(frozen=True)
class Views:
    """The views of an image that are scored, beside the image itself (as in Jordan 2024, arXiv 2404.00498).

    `flip`: each view left to right too, in equal parts. `shift`: two views moved along the diagonal by so many
    pixels, the border reflected, weigh as much as the centre together. `neighbors`: all eight neighbours at that distance
    instead, each as much as the centre. `confidence_threshold`: an image whose highest probability is not below this gets none of it,
    and its answer stays.
    """

    flip: bool = False
    shift: int = 0
    neighbors: bool = False
    confidence_threshold: float = 1.0

    @property
    def count(self) -> int:
        """How many times an image is scored that gets all views."""
        return (1 + self.flip) * (1 + len(self._moves))

    def scored(self, uncertain: float) -> float:
        """How many times an image is scored on average, if this share of them is uncertain enough to get the views."""
        return 1 + (self.count - 1) * (uncertain if self.confidence_threshold < 1 else 1.0)

    def uncertain(self, logits: Tensor) -> Tensor:
        """Which images get the views, bool [B], by their own logits [B, classes]."""
        return logits.float().softmax(1).amax(1) < self.confidence_threshold

    @property
    def _moves(self) -> list[tuple[int, int]]:
        """Rows and columns by which views are moved."""
        if not self.shift:
            return []
        if not self.neighbors:
            return [(-self.shift, -self.shift), (self.shift, self.shift)]
        steps = (-self.shift, 0, self.shift)
        return [(down, right) for down in steps for right in steps if down or right]

    def of(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        """(weight, view) of images float [B, C, H, W]; the weights sum to 1, and the first view is the image."""
        height, width = images.shape[2:]
        moves, each = self._moves, 1 / 9 if self.neighbors else 1 / 4
        moved = [(1 - each * len(moves), images)]
        if moves:
            padded = F.pad(images, (self.shift,) * 4, mode="reflect")
            for down, right in moves:
                top, left = self.shift + down, self.shift + right
                moved.append((each, padded[:, :, top : top + height, left : left + width]))
        for weight, view in moved:
            yield weight / (1 + self.flip), view
        for weight, view in moved if self.flip else ():
            yield weight / 2, view.flip(3)

    def answers(
        self, model: Callable[[Tensor], Tensor], images: Tensor, spare: ScoringTime | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits float [B, classes] of images float [B, C, H, W]: of the images alone, and of all views.

        Where `spare` says that there is no time for other views, the answers to the images alone stay.
        """
        started = time.perf_counter()
        plain = model(images)
        if spare:
            spare.note(len(images), time.perf_counter() - started)
        augmented = plain.float()
        if self.count == 1:
            return plain, augmented
        chosen = slice(None) if self.confidence_threshold == 1 else self.uncertain(plain)
        wanted = len(images) if self.confidence_threshold == 1 else int(chosen.sum())
        if not wanted or (spare and not spare.allows(wanted, self.count - 1)):
            return plain, augmented
        (weight, _), *others = self.of(images[chosen])
        total = weight * augmented[chosen]
        for weight, view in others:
            total = total + weight * model(view).float()
        augmented = augmented.clone()
        augmented[chosen] = total
        return plain, augmented


def views_of(tta: TTA, flip: float) -> Views:
    """The views of test-time augmentation of a network to which so large a share of the images was mirrored."""
    mirror = flip > 0 if tta.flip is None else tta.flip
    return Views(mirror, tta.shift, tta.neighbors, tta.confidence_threshold)
