"""DavidNet, the 9-layer residual network that won DAWNBench (David Page, "How to train your ResNet", 2018).

Its options are techniques from the last part of that series (2019) and from later work, each on its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastconv.models import configs
from fastconv.models.fused import FusedSequential
from fastconv.models.layers import ACTIVATIONS, Convolution
from fastconv.models.registry import register_network
from fastconv.models.whitening import Whitening


@dataclass(frozen=True)
class Style:
    """The options that all blocks of a DavidNet share; see `DavidNet`."""

    dirac: bool
    pool_before_norm: bool
    activation: str
    freeze_norm_scale: bool


class ConvNorm(FusedSequential):
    """A 3x3 convolution without bias, batch norm, an activation and, with `pool`, the maximum of each 2x2 pixels.

    The published order is ReLU, then pool. Here the pool comes first. With any activation that never falls, this gives
    the same values and gradients, and the activation has a quarter of the pixels, which saves 1.5 % of a training step
    on a CPU. GELU and SiLU fall below zero; for them the order makes a small difference.
    """

    def __init__(self, inputs: int, outputs: int, style: Style, pool: bool = False, kernel_size: int = 3) -> None:
        conv = Convolution(inputs, outputs, kernel_size)
        if style.dirac:
            with torch.no_grad():
                nn.init.dirac_(conv.weight[: min(inputs, outputs)])
        norm: nn.Module = nn.BatchNorm2d(outputs)
        norm.weight.requires_grad_(not style.freeze_norm_scale)
        smaller: nn.Module = nn.MaxPool2d(2) if pool else nn.Identity()
        order = (smaller, norm) if style.pool_before_norm else (norm, smaller)
        super().__init__(conv, *order, ACTIVATIONS[style.activation]())


class Residual(nn.Module):
    """The input plus the output of two ConvNorm blocks of the same width."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.block1 = ConvNorm(width, width, style)
        self.block2 = ConvNorm(width, width, style)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.block2(self.block1(x))
        return added


@register_network(configs.DavidNet)
class DavidNet(nn.Module):
    """prep - layer1 (pool, residual) - layer2 (pool) - layer3 (pool, residual) - global max-pool - linear.

    With `width` 64, 3 channels and 10 classes: 6,573,120 trainable parameters.

    Args:
        channels: channels of an image.
        classes: number of classes.
        width: number of filters of the first layer; the next have two, four and eight times as many.
        logits_scale: factor on the logits.
        whitening: whiten 3x3 patches of the image in a separate frozen layer. `prep` then only mixes its outputs, by a
            1x1 convolution.
        dirac: initialise the first filters of each convolution as the identity.
        pool_before_norm: pool directly after the convolution, so that the norm computes on a quarter of the pixels.
        activation: name of the activation.
        freeze_norm_scale: freeze the scale of batch norms, so that they learn only a bias.
    """

    # Names of the layers, from first to last, that attribution methods can use.
    blocks = ("prep", "layer1", "layer2", "layer3")

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        logits_scale: float = 0.125,
        whitening: bool = False,
        dirac: bool = False,
        pool_before_norm: bool = False,
        activation: str = "relu",
        freeze_norm_scale: bool = False,
    ) -> None:
        super().__init__()
        style = Style(dirac, pool_before_norm, activation, freeze_norm_scale)
        if whitening:
            # The next convolution is linear and learns the signs itself.
            self.whitening = Whitening(channels, kernel_size=3, padding=1, signed=False)
            self.prep = ConvNorm(self.whitening.out_channels, width, style, kernel_size=1)
        else:
            self.prep = ConvNorm(channels, width, style)
        self.layer1 = nn.Sequential(ConvNorm(width, 2 * width, style, pool=True), Residual(2 * width, style))
        self.layer2 = ConvNorm(2 * width, 4 * width, style, pool=True)
        self.layer3 = nn.Sequential(ConvNorm(4 * width, 8 * width, style, pool=True), Residual(8 * width, style))
        # A global pool works for any image size; for 32x32 images it equals the published 4x4 pool.
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(8 * width, classes, bias=False)
        self.logits_scale = logits_scale

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "whitening"):
            x = self.whitening(x)
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        logits: Tensor = self.linear(self.pool(x).flatten(1)) * self.logits_scale
        return logits
