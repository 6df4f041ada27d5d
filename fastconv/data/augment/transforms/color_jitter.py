"""Random brightness and contrast."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.augment.transform import Drawn, Draws, Images, transform
from fastconv.system.settings import Range, setting

if TYPE_CHECKING:
    from torch import Tensor

# Colours change in fixed point: fractional bits of a level of brightness, and of the factor of contrast.
BRIGHTNESS_BITS, CONTRAST_BITS = 8, 16
# Pixels to process at once: few enough to stay in a core's cache as 32-bit numbers.
COLOUR_PIXELS = 2**17


@transform("color_jitter")
@dataclass(frozen=True)
class ColorJitter:
    """Change brightness and contrast of each image, drawn evenly between minus and plus the limits.

    A pixel v of an image of mean m, both scaled to [0, 1] (m over all pixels and channels of the cropped image),
    becomes m + (v - m) (1 + c) + b, rounded to a byte and clipped, where |b| <= brightness and |c| <= contrast. Some
    recipes give brightness for normalised pixels, in standard deviations, such as Hiverge's 0.14 for CIFAR-10. Times
    the standard deviation of 0.25, that is 0.035 here.
    """

    brightness: float = setting(0.0, Range("a share", 0, 1))
    """Largest change of brightness, up or down, as a share in [0, 1] of the range of pixels; 0 switches it off."""
    contrast: float = setting(0.0, Range("a share", 0, 1))
    """Largest change of an image's contrast, up or down: the share in [0, 1] by which differences from its mean grow or
    shrink; 0 switches it off."""

    def draw(self, draws: Draws) -> Drawn | None:
        """(brightness, contrast) of each image, int64 [samples, 2].

        Brightness is the amount to add, in levels of 255 times 2**BRIGHTNESS_BITS; contrast is the factor on
        differences from the mean minus 1, times 2**CONTRAST_BITS.
        """
        if not (self.brightness or self.contrast):
            return None
        brightness = draws.around_zero(round(self.brightness * 255 * 2**BRIGHTNESS_BITS), "brightness")
        contrast = draws.around_zero(round(self.contrast * 2**CONTRAST_BITS), "contrast")
        return np.stack([brightness, contrast], axis=1)

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> None:
        """Change, in place, brightness and contrast of each image by `drawn`, int64 [B, 2].

        It computes in integers, which round the same way everywhere.
        """
        brightness, contrast = drawn[:, 0], drawn[:, 1]
        one, unit = 2**CONTRAST_BITS, 2 ** (CONTRAST_BITS - BRIGHTNESS_BITS)
        pixels = images.reshape(len(images), -1)
        count = pixels.shape[1]
        sums = pixels.sum(axis=1, dtype=np.int64)
        # m + (v - m) (1 + c) + b = v (1 + c) + (b - m c), in units of contrast: below 2**27, so 32 bits are enough.
        factor = (one + contrast).astype(np.int32)
        offset = (brightness * unit - (2 * sums * contrast + count) // (2 * count)).astype(np.int32)
        step = max(1, COLOUR_PIXELS // count)
        for at in range(0, len(pixels), step):
            rows = slice(at, at + step)
            changed = np.multiply(pixels[rows], factor[rows, None], dtype=np.int32)
            changed += offset[rows, None] + one // 2
            changed >>= CONTRAST_BITS
            images[rows] = np.clip(changed, 0, 255, out=changed).reshape(-1, *images.shape[1:])

    def apply_on_device(self, images: "Tensor", drawn: "Tensor", fill: "Tensor") -> "Tensor":
        """Images with brightness and contrast changed by `drawn`, int64 [B, 2], in the same integers as `apply`."""
        import torch

        brightness, contrast = drawn[:, 0], drawn[:, 1]
        one, unit = 2**CONTRAST_BITS, 2 ** (CONTRAST_BITS - BRIGHTNESS_BITS)
        pixels = images.flatten(1)
        count = pixels.shape[1]
        sums = pixels.sum(1, dtype=torch.int64)
        factor = (one + contrast).int()
        offset = (brightness * unit - (2 * sums * contrast + count) // (2 * count)).int()
        changed: Tensor = (pixels * factor[:, None]).add_(offset[:, None] + one // 2)
        return changed.bitwise_right_shift_(CONTRAST_BITS).clamp_(0, 255).to(torch.uint8).view_as(images)
