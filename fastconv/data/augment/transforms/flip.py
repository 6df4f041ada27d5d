"""Horizontal flips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.augment.transform import Drawn, Draws, Images, transform
from fastconv.system.settings import CHANCE, setting

if TYPE_CHECKING:
    from torch import Tensor

FLIP_MODES = ("random", "alternating")


@transform("flip")
@dataclass(frozen=True)
class Flip:
    """Flip the image left to right."""

    probability: float = setting(0.0, CHANCE)
    """Probability, in [0, 1], that an image is flipped; 0 switches flips off."""
    mode: str = setting("random", options=FLIP_MODES)
    """`random` decides for each image in each epoch. `alternating` decides for each image in its first epoch, then does
    in each epoch that has the image the opposite of the one before (Jordan 2024, arXiv 2404.00498, section 3.6); the
    probability must then be 0.5, or 0 for no flips."""

    @property
    def mirrors(self) -> bool:
        """Whether it mirrors any images."""
        return self.probability > 0

    @property
    def alternates(self) -> bool:
        """Whether it shows each image both ways by turns."""
        return self.mirrors and self.mode == "alternating"

    def draw(self, draws: Draws) -> Drawn | None:
        """Whether each image is flipped, bool [samples]."""
        if not self.probability:  # flips change the class: flip in no epoch, also with `alternating`
            return None
        if self.mode == "random":
            return draws.chances(self.probability)
        # By how often the image has come, and not by the epoch's number: an image that skips every other epoch would
        # always be shown the same way.
        flipped: Drawn = draws.at_epoch(0).chances(self.probability) ^ (draws.times % 2 == 1)
        return flipped

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> None:
        """Flip, in place, the images for which `drawn`, bool [B], is true."""
        rows = np.flatnonzero(drawn)
        if not len(rows):
            return
        chosen = images[rows]
        flipped = np.empty_like(chosen)
        for channel in range(chosen.shape[3]):  # reversing whole pixels at once takes four times as long
            flipped[..., channel] = chosen[:, :, ::-1, channel]
        images[rows] = flipped

    def apply_on_device(self, images: "Tensor", drawn: "Tensor", fill: "Tensor") -> "Tensor":
        """Images of which those for which `drawn`, bool [B], is true are flipped."""
        return images.flip(2).where(drawn[:, None, None, None], images)
