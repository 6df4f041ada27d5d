"""The networks of the CIFAR-10 speed records (Keller Jordan 2024, arXiv 2404.00498, and github cifar10-airbench)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastconv.models import configs
from fastconv.models.fused import FusedSequential, activate
from fastconv.models.layers import ACTIVATIONS, Convolution
from fastconv.models.registry import register_network
from fastconv.models.whitening import Whitening

# Standard deviation of the initial weights of the last layer, times the scale of the logits; from airbench94_muon.
LOGIT_WEIGHT = 1 / 256
# Whitened patches that are more than a pixel apart keep as many components as a 3x3 patch of a colour image has. More
# would make the first group slower, and those of large patches that are left out hold little of an image.
MOST_COMPONENTS = 27


class Norm(nn.BatchNorm2d):
    """Batch norm whose scale stays 1."""

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__(width, eps=1e-12, momentum=momentum)
        self.weight.requires_grad_(False)


class Pool(nn.MaxPool2d):
    """The maximum of each 2x2 pixels; a map with a single row or column stays as it is."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if min(x.shape[2:]) > 1 else x


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution whose first filters start as the identity (Zagoruyko & Komodakis 2017, arXiv 1706.00388)."""
    layer = Convolution(inputs, outputs)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(inputs, outputs)])
    return layer


def whitening(channels: int, kernel: int | None, stride: int) -> Whitening:
    """The first layer, with patches of this side, or of the usual one if it is None."""
    side = configs.patch_side(channels, kernel, stride)
    if stride == 1:
        return Whitening(channels, side, padding=side // 2 if side % 2 else 0)
    return Whitening(channels, side, padding=max(0, side - stride + 1) // 2, stride=stride, components=MOST_COMPONENTS)


class Group(nn.Module):
    """A convolution and a pool to a new width, then further convolutions, each with norm and activation.

    Args:
        convs: number of convolutions, the first included.
        residual: add the input of the further convolutions to their output, before the last activation.
    """

    def __init__(
        self, inputs: int, width: int, convs: int, residual: bool, activation: str, norm_momentum: float
    ) -> None:
        super().__init__()
        self.residual = residual
        self.first = FusedSequential(
            conv3x3(inputs, width), Pool(), Norm(width, norm_momentum), ACTIVATIONS[activation]()
        )
        layers: list[nn.Module] = []
        for _ in range(convs - 1):
            layers += [conv3x3(width, width), Norm(width, norm_momentum), ACTIVATIONS[activation]()]
        self.further = FusedSequential(*layers[:-1])
        self.activation = layers[-1] if layers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.residual:
            return activate(self.activation, self.further(x) + x)
        return self.further.then(self.activation, x)


@register_network(configs.Airbench)
class Airbench(nn.Module):
    """Whitening - three groups of convolutions - global max-pool - linear. Images of 8x8 and more for each
    pixel of the whitening's stride.

    With the defaults, 3 channels and 10 classes it is airbench94's network: 1,971,640 weights, 288 of which are the
    frozen weights of the whitening. For 32x32 images the global pool equals airbench94's 3x3 pool.

    Args:
        channels: channels of an image.
        classes: number of classes.
        widths: number of filters of each group.
        convs: number of convolutions of each group.
        residual: give each group a skip connection around all convolutions but its first.
        whitening_kernel: side of the whitened patches in pixels, padded if it is odd; None for 2, or 3 for grey images,
            whose patches have fewer directions; with a stride above 1 for the stride and one pixel, or two.
        whitening_stride: pixels from a whitened patch to the next one, in both directions. 2 makes maps of half the
            image's side, which take about a quarter of the time.
        activation: name of the activation.
        norm_momentum: momentum of batch norm: the share of a batch's statistics in the running statistics.
        logits_scale: factor on the logits. Their initial size does not depend on it. The default is that of
            airbench94's SGD version; the Muon version has 1/256, which makes no difference to `optim.Muon`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (64, 256, 256),
        convs: int = 2,
        residual: bool = False,
        whitening_kernel: int | None = None,
        whitening_stride: int = 1,
        activation: str = "gelu",
        norm_momentum: float = 0.4,
        logits_scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        self.whitening = whitening(channels, whitening_kernel, whitening_stride)
        self.activation = ACTIVATIONS[activation]()
        inputs, groups = self.whitening.out_channels, []
        for width in widths:
            groups.append(Group(inputs, width, convs, residual, activation, norm_momentum))
            inputs = width
        self.groups = nn.ModuleList(groups)
        # Names of the layers, from first to last, that attribution methods can use.
        self.blocks = ("whitening", *(f"groups.{at}" for at in range(len(groups))))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(inputs, classes, bias=False)
        with torch.no_grad():
            self.linear.weight.mul_(LOGIT_WEIGHT / (logits_scale * self.linear.weight.std()))
        self.logits_scale = logits_scale

    def forward(self, x: Tensor) -> Tensor:
        x = activate(self.activation, self.whitening(x))
        for group in self.groups:
            x = group(x)
        logits: Tensor = self.linear(self.pool(x).flatten(1)) * self.logits_scale
        return logits
