"""Cutout."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastconv.data.augment.transform import Drawn, Draws, Images, transform
from fastconv.system.settings import PIXELS, setting

if TYPE_CHECKING:
    from torch import Tensor


@transform("cutout")
@dataclass(frozen=True)
class Cutout:
    """Cover one square inside the image with the mean colour (DeVries & Taylor 2017, arXiv 1708.04552)."""

    size: int = setting(0, PIXELS)
    """Side of the covered square in pixels; 0 switches it off."""

    def draw(self, draws: Draws) -> Drawn | None:
        """The covered square's corner (y, x), int64 [samples, 2]."""
        if not self.size:
            return None
        places = {"y": draws.height - self.size + 1, "x": draws.width - self.size + 1}
        return np.stack([draws.integers(bound, side) for side, bound in places.items()], axis=1)

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> None:
        """Cover, in place, each image's square whose corner is `drawn`, int64 [B, 2]."""
        n, height, width, channels = images.shape
        image_step, row_step, pixel_step, byte_step = images.strides
        # As for crops: squares are rows of size * channels bytes, which is eight times as fast as single pixels.
        squares = as_strided(
            images,
            shape=(n, height - self.size + 1, width - self.size + 1, self.size, self.size * channels),
            strides=(image_step, row_step, pixel_step, row_step, byte_step),
        )
        squares[np.arange(n), drawn[:, 0], drawn[:, 1]] = np.tile(fill, self.size)

    def apply_on_device(self, images: "Tensor", drawn: "Tensor", fill: "Tensor") -> "Tensor":
        """Images in which each one's square, whose corner is `drawn`, int64 [B, 2], is covered."""
        import torch

        height, width = images.shape[1:3]
        places = torch.arange(max(height, width), device=images.device) - drawn[:, :, None]
        inside = (places >= 0) & (places < self.size)  # by image, direction and line
        covered = inside[:, 0, :height, None] & inside[:, 1, None, :width]
        return fill.where(covered[..., None], images)
