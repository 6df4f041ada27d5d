"""Random crops of padded images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastconv.data.augment.transform import Drawn, Draws, Images, transform
from fastconv.system.settings import PIXELS, setting

if TYPE_CHECKING:
    from torch import Tensor

PAD_MODES = ("constant", "reflect")


@transform("crop")
@dataclass(frozen=True)
class Crop:
    """Pad every side, then cut a window of the image's own size at a random place."""

    padding: int = setting(0, PIXELS)
    """Pixels to add on each side before the random crop; 0 switches cropping off."""
    mode: str = setting("constant", options=PAD_MODES)
    """Content of the padding: `constant` (the training set's mean colour) or `reflect` (the image reflected at its
    border)."""

    def draw(self, draws: Draws) -> Drawn | None:
        """The window's corner (y, x) in the padded image, int64 [samples, 2]."""
        if not self.padding:
            return None
        places = 2 * self.padding + 1
        return np.stack([draws.integers(places, side) for side in ("y", "x")], axis=1)

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> Images:
        """Pad images [B, H, W, C] and cut each one's own [H, W] window at its corner, int64 [B, 2]."""
        n, height, width, channels = images.shape
        padded = self._padded(images, fill)
        # One strided view holds every window of every image, with runs of width * channels bytes as rows. Picking one
        # window per image is then a single gather of long runs, ten times as fast as moving single pixels.
        image_step, row_step, pixel_step, byte_step = padded.strides
        places = 2 * self.padding + 1
        windows = as_strided(
            padded,
            shape=(n, places, places, height, width * channels),
            strides=(image_step, row_step, pixel_step, row_step, byte_step),
            writeable=False,
        )
        cropped: Images = windows[np.arange(n), drawn[:, 0], drawn[:, 1]].reshape(n, height, width, channels)
        return cropped

    def _padded(self, images: Images, fill: Images) -> Images:
        n, height, width, channels = images.shape
        padding = self.padding
        if self.mode == "reflect":
            sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
            return np.pad(images, sides, mode="reflect")
        # Fill rows of bytes: assigning a colour to slices [.., C] goes pixel by pixel and is five times as slow.
        side = padding * channels
        border = np.tile(fill, width + 2 * padding)
        lines = np.empty((n, height + 2 * padding, len(border)), np.uint8)
        lines[:, :padding] = lines[:, -padding:] = border
        lines[:, padding:-padding, :side] = lines[:, padding:-padding, -side:] = border[:side]
        lines[:, padding:-padding, side:-side] = images.reshape(n, height, width * channels)
        return lines.reshape(n, height + 2 * padding, width + 2 * padding, channels)

    def apply_on_device(self, images: "Tensor", drawn: "Tensor", fill: "Tensor") -> "Tensor":
        """Pad images [B, H, W, C] and cut each one's own [H, W] window at its corner, int64 [B, 2], as `apply` does."""
        import torch

        n, height, width, channels = images.shape
        padded = self._padded_on_device(images, fill)
        image_step, row_step, pixel_step, byte_step = padded.stride()
        places = 2 * self.padding + 1
        windows = padded.as_strided(
            (n, places, places, height, width * channels), (image_step, row_step, pixel_step, row_step, byte_step)
        )
        rows = torch.arange(n, device=images.device)
        return windows[rows, drawn[:, 0], drawn[:, 1]].reshape(n, height, width, channels)

    def _padded_on_device(self, images: "Tensor", fill: "Tensor") -> "Tensor":
        import torch

        n, height, width, channels = images.shape
        padding = self.padding
        if self.mode == "reflect":  # torch pads no bytes
            for side in (1, 2):
                last = images.shape[side] - 1
                places = torch.arange(-padding, last + padding + 1, device=images.device).abs()
                images = images.index_select(side, last - (last - places).abs())
            return images
        padded = fill.expand(n, height + 2 * padding, width + 2 * padding, channels).clone(
            memory_format=torch.contiguous_format
        )
        padded[:, padding:-padding, padding:-padding] = images
        return padded
