"""A network together with the normalisation of its images: it takes raw pixels and returns logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastconv.models.whitening import Whitening

# Images to compute the whitening from, as in airbench: the covariance of patches needs no more.
WHITENING_IMAGES = 5000


class Normalise(nn.Module):
    """Normalises pixels uint8 [B, H, W, C] to float [B, C, H, W], of mean 0 and standard deviation 1 over the training
    images.

    Args:
        mean, std: per channel, of pixel values scaled to [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Pixels are bytes: (x / 255 - mean) / std becomes one product and one sum.
        deviation = torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(-1, 1, 1) / deviation, persistent=False)
        # The scale and the width that the last row of pixels had, and both factors for each of its numbers.
        self._row: tuple[Tensor, int, Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu" and images.shape[-1] > 1 and not torch.compiler.is_compiling():
            return self._by_rows(images)
        # The permuted view of [B, H, W, C] is already channels_last.
        return images.permute(0, 3, 1, 2) * self.scale + self.shift

    def _by_rows(self, images: Tensor) -> Tensor:
        """The same numbers in the same places, a tenth of the time: a CPU's loop is over the pixels of a row, W * C
        numbers, where it would be over the C numbers of a pixel."""
        width, kept = images.shape[2], self._row
        if kept is None or kept[0] is not self.scale or kept[1] != width:
            with torch.inference_mode(False):  # they must also do for images whose gradient is computed
                scale, shift = (channels.flatten().repeat(width) for channels in (self.scale, self.shift))
            self._row = kept = (self.scale, width, scale, shift)
        _, _, scale, shift = kept
        # In place, as a second tensor of this size may cost the system more than the sum.
        rows = (images.flatten(2) * scale).add_(shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """A network with its normalisation: maps raw images [B, H, W, C] to logits float [B, classes]."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.normalise = model, Normalise(mean, std)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalise(images))
        return logits


@torch.no_grad()
def whiten(model: nn.Module, normalise: Normalise, images: np.ndarray) -> None:
    """Compute the layer `whitening` of a network, if it has one, from training images uint8 [N, H, W, C]."""
    layer = getattr(model, "whitening", None)
    if isinstance(layer, Whitening):
        layer.whiten(normalise(torch.from_numpy(np.array(images[:WHITENING_IMAGES]))))
