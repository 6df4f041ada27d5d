"""The networks of the CIFAR-10 speed records (Keller Jordan 2024, arXiv 2404.00498, and github cifar10-airbench)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv.models.activation import ACTIVATIONS
from fastconv.models.convolution import Convolution
from fastconv.models.whitening import Whitening

# Standard deviation with which the weights of the logits, times their scale, begin: airbench94_muon's.
LOGIT_WEIGHT = 1 / 256


class Norm(nn.BatchNorm2d):
    """Batch norm whose scale stays 1."""

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__(width, eps=1e-12, momentum=momentum)
        self.weight.requires_grad_(False)


class Pool(nn.MaxPool2d):
    """The maximum of each 2x2 pixels; a map that has no two rows or columns any more stays as it is."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if min(x.shape[2:]) > 1 else x


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution whose first filters hand their inputs on (Zagoruyko & Komodakis 2017, arXiv 1706.00388)."""
    layer = Convolution(inputs, outputs)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(inputs, outputs)])
    return layer


class Group(nn.Module):
    """A convolution and a pool to a new width, then further convolutions, each with norm and activation.

    Args:
        convs: convolutions in all.
        residual: add what goes into the further ones to what comes out of them, before the last activation.
    """

    def __init__(
        self, inputs: int, width: int, convs: int, residual: bool, activation: str, norm_momentum: float
    ) -> None:
        super().__init__()
        self.residual = residual
        self.first = nn.Sequential(
            conv3x3(inputs, width), Pool(), Norm(width, norm_momentum), ACTIVATIONS[activation]()
        )
        layers: list[nn.Module] = []
        for _ in range(convs - 1):
            layers += [conv3x3(width, width), Norm(width, norm_momentum), ACTIVATIONS[activation]()]
        self.further = nn.Sequential(*layers[:-1])
        self.activation = layers[-1] if layers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        further = self.further(x)
        return self.activation(further + x if self.residual else further)


class Members(nn.Module):
    """As many layers side by side: their maps [B, C, H, W] as one, [B, members x C, H, W].

    Args:
        layers: those of the members.
        shared: all get the whole input, not each its own part of the channels.
    """

    def __init__(self, layers: Sequence[nn.Module], shared: bool) -> None:
        super().__init__()
        self.layers, self.shared = nn.ModuleList(layers), shared

    def forward(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        kept = torch.channels_last if last else torch.contiguous_format
        count = len(self.layers)
        inputs = [x] * count if self.shared else [part.contiguous(memory_format=kept) for part in x.chunk(count, 1)]
        return torch.cat([layer(part) for layer, part in zip(self.layers, inputs, strict=True)], 1)


class Airbench(nn.Module):
    """Whitening - three groups of convolutions - global max-pool - linear. Images of 8x8 and more.

    With the defaults, 3 channels and 10 classes it is airbench94's network: 1,971,640 weights, of which the 288 of the
    whitening are not learned. For 32x32 images a global pool is its 3x3 pool.

    Args:
        channels: channels of an image.
        classes: number of classes.
        widths: filters of each group.
        convs: convolutions of each group.
        residual: give each group a connection past its further convolutions.
        whitening_kernel: side of the whitened patches in pixels, padded if it is odd; None for 2, or 3 for grey images,
            whose patches have fewer directions.
        activation: name of the activation.
        norm_momentum: share of a batch's statistics in the running ones.
        logits_scale: factor on the logits, which begin with the same size whatever it is. That of airbench94's SGD
            version; the Muon version has 1/256, which makes no difference to `optim.Muon`.
        members: networks side by side, which share the whitening alone, and whose logits are averaged: an ensemble, if
            each learns from its own loss (see `logits_apart`).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (64, 256, 256),
        convs: int = 2,
        residual: bool = False,
        whitening_kernel: int | None = None,
        activation: str = "gelu",
        norm_momentum: float = 0.4,
        logits_scale: float = 1 / 9,
        members: int = 1,
    ) -> None:
        super().__init__()
        side = whitening_kernel or (2 if channels > 1 else 3)
        self.whitening = Whitening(channels, side, padding=side // 2 if side % 2 else 0)
        self.activation = ACTIVATIONS[activation]()
        inputs, groups = self.whitening.out_channels, []
        for width in widths:
            apart = [Group(inputs, width, convs, residual, activation, norm_momentum) for _ in range(members)]
            groups.append(Members(apart, shared=not groups) if members > 1 else apart[0])
            inputs = width
        self.groups = nn.ModuleList(groups)
        # From the first to the last: whoever asks where the network looks asks one of these.
        self.blocks = ("whitening", *(f"groups.{at}" for at in range(len(groups))))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(members * inputs, classes, bias=False)
        with torch.no_grad():
            self.linear.weight.mul_(LOGIT_WEIGHT / (logits_scale * self.linear.weight.std()))
        self.logits_scale, self.members = logits_scale, members

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self._features(x)) * (self.logits_scale / self.members)

    def logits_apart(self, x: Tensor) -> Tensor:
        """Logits [B, members, classes] of each member; their mean is what the network answers."""
        features = self._features(x).unflatten(1, (self.members, -1))
        weights = self.linear.weight.unflatten(1, (self.members, -1))
        apart = [F.linear(features[:, at], weights[:, at]) for at in range(self.members)]
        return torch.stack(apart, 1) * self.logits_scale

    def _features(self, x: Tensor) -> Tensor:
        x = self.activation(self.whitening(x))
        for group in self.groups:
            x = group(x)
        return self.pool(x).flatten(1)
