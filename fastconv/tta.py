"""Test-time augmentation: a network's answer as the mean of its answers to several views of an image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The views of an image that are scored, beside the image itself (as in Jordan 2024, arXiv 2404.00498).

    `mirror`: each view left to right too, in equal parts. `shift`: two views moved along the diagonal by so many
    pixels, the border reflected, weigh as much as the centre together. `below`: an image whose highest probability is
    not below this gets none of it, and its answer stays.
    """

    mirror: bool = False
    shift: int = 0
    below: float = 1.0

    @property
    def count(self) -> int:
        """How many times an image is scored."""
        return (1 + self.mirror) * (1 + 2 * (self.shift > 0))

    def of(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        """(weight, view) of images float [B, C, H, W]; the weights sum to 1, and the first view is the image."""
        height, width = images.shape[2:]
        moved = [(1.0, images)]
        if self.shift:
            padded = F.pad(images, (self.shift,) * 4, mode="reflect")
            corners = (0, 2 * self.shift)
            moved = [(0.5, images), *((0.25, padded[:, :, at : at + height, at : at + width]) for at in corners)]
        for weight, view in moved:
            yield weight / (1 + self.mirror), view
        for weight, view in moved if self.mirror else ():
            yield weight / 2, view.flip(3)

    def answers(self, model: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float [B, classes] of images float [B, C, H, W]: of the images alone, and of all views."""
        plain = model(images)
        augmented = plain.float()
        chosen = slice(None) if self.below == 1 else plain.float().softmax(1).amax(1) < self.below
        if self.count == 1 or (isinstance(chosen, Tensor) and not chosen.any()):
            return plain, augmented
        (weight, _), *others = self.of(images[chosen])
        total = weight * augmented[chosen]
        for weight, view in others:
            total = total + weight * model(view).float()
        augmented = augmented.clone()
        augmented[chosen] = total
        return plain, augmented
