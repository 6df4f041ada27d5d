"""A first layer that whitens patches of the image. It is computed from the training images instead of learned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Images to take patches from at once: few enough to stay in a processor's caches.
CHUNK = 50


class Whitening(nn.Conv2d):
    """A convolution with the principal components of the images' patches, each scaled to unit variance.

    Page 2019, "How to train your ResNet 8". Jordan 2024 (arXiv 2404.00498, section 3.2) uses both signs of each
    component, because the next activation would lose one. The weight is frozen, the bias learns. Before `whiten`, the
    weight has the usual random values.

    Args:
        channels: channels of an image.
        kernel_size, padding, stride: settings of the convolution.
        signed: use two filters of opposite sign for each component, instead of one, and a bias.
        components: number of components, those of the largest variances; None for all.
        eps: added to the variances, so that components of pure noise are not amplified.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        padding: int = 0,
        signed: bool = True,
        eps: float = 5e-4,
        stride: int = 1,
        components: int | None = None,
    ) -> None:
        directions = channels * kernel_size**2
        count = min(directions, components or directions) * (1 + signed)
        super().__init__(channels, count, kernel_size, stride=stride, padding=padding, bias=signed)
        self.weight.requires_grad_(False)
        self.signed, self.eps = signed, eps

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Compute the weight from normalised images, float [N, C, H, W], at least as large as the kernel."""
        directions_count = self.in_channels * self.kernel_size[0] * self.kernel_size[1]
        count = 0
        total = torch.zeros(directions_count, dtype=torch.float64, device=images.device)
        products = total.new_zeros(directions_count, directions_count)
        for part in images.split(CHUNK):
            patches = F.unfold(part.double(), self.kernel_size, stride=self.stride)  # [N, C x k x k, places]
            count += len(patches) * patches.shape[2]
            total = total + patches.sum((0, 2))
            products = products + (patches @ patches.mT).sum(0)
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        variances, directions = torch.linalg.eigh(covariance)
        variances, directions = variances.flip(0), directions.T.flip(0)  # largest first
        # The sign of a component is arbitrary: make its sum positive, so that the result is always the same.
        directions = directions * torch.where(directions.sum(1, keepdim=True) < 0, -1.0, 1.0)
        filters = directions / (variances.clamp(min=0) + self.eps).sqrt()[:, None]
        filters = filters[: self.out_channels // (1 + self.signed)]
        filters = torch.cat([filters, -filters]) if self.signed else filters
        self.weight.copy_(filters.view(self.weight.shape))
