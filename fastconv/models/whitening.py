"""A first layer that whitens patches of the image, computed from the training images instead of learned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Images whose patches are taken at once: few enough to stay in a processor's caches.
CHUNK = 50


class Whitening(nn.Conv2d):
    """A convolution by the principal directions of the images' patches, each scaled to unit variance.

    Page 2019, "How to train your ResNet 8"; with both signs of each direction, as an activation follows that would lose
    one: Jordan 2024, arXiv 2404.00498, section 3.2. The weight is frozen, the bias learns. Before `whiten`, the weight
    is that of any convolution.

    Args:
        channels: channels of an image.
        kernel_size, padding: of the convolution.
        signed: two filters for each direction, of opposite sign, instead of one; and a bias.
        eps: added to the variances, lest directions that are all noise are blown up.
    """

    def __init__(
        self, channels: int, kernel_size: int, padding: int = 0, signed: bool = True, eps: float = 5e-4
    ) -> None:
        directions = channels * kernel_size**2
        super().__init__(channels, directions * (1 + signed), kernel_size, padding=padding, bias=signed)
        self.weight.requires_grad_(False)
        self.signed, self.eps = signed, eps

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Take the weight from the patches of normalised images, float [N, C, H, W], of at least the kernel's size."""
        directions_count = self.in_channels * self.kernel_size[0] * self.kernel_size[1]
        count = 0
        total = torch.zeros(directions_count, dtype=torch.float64, device=images.device)
        products = total.new_zeros(directions_count, directions_count)
        for part in images.split(CHUNK):
            patches = F.unfold(part.double(), self.kernel_size)  # [N, C x k x k, places]
            count += len(patches) * patches.shape[2]
            total = total + patches.sum((0, 2))
            products = products + (patches @ patches.mT).sum(0)
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        variances, directions = torch.linalg.eigh(covariance)
        variances, directions = variances.flip(0), directions.T.flip(0)  # the largest first
        # Either sign of a direction would do: the one with the larger part above zero, so that it is always the same.
        directions = directions * torch.where(directions.sum(1, keepdim=True) < 0, -1.0, 1.0)
        filters = directions / (variances.clamp(min=0) + self.eps).sqrt()[:, None]
        filters = torch.cat([filters, -filters]) if self.signed else filters
        self.weight.copy_(filters.view(self.weight.shape))
