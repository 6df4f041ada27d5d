"""Networks of torchvision and timm that were trained on ImageNet, with a new head for other classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastconv.models import configs
from fastconv.models.backbones import make_backbone
from fastconv.models.registry import register_network

# Standard deviation of a new head's weights, as torchvision draws those of its own. timm's EfficientNets draw ten
# classes' from [-0.32, 0.32]: logits of a standard deviation near 10, from which 40 steps of AdamW did not come back.
HEAD_STD = 0.01
# A top-level part of a network that is a list of more than this share of its weights counts as the layers in it.
MOST_OF_THE_NETWORK = 0.5


@dataclass(frozen=True)
class Layer:
    """A part of a network that learns at a rate of its own.

    `lr_scale` is a factor on the peak learning rate; the part learns from `schedule_start` on, a share of the run.
    """

    parameters: list[nn.Parameter]
    lr_scale: float
    schedule_start: float


@register_network(configs.Pretrained)
class Pretrained(nn.Module):
    """A network of a library whose last layer is a new one, for `classes`. It is made with random weights: those of
    ImageNet are loaded at the start of a run (`pretrained_weights.load_weights`), a checkpoint has its own.

    It takes images that are normalised by the statistics of the data set, as all networks do, and converts them to the
    normalisation of its weights: `x * scale + shift`, by channel. Grey images become three equal channels.

    Args:
        channels: channels of an image, 1 or 3.
        classes: number of classes.
        backbone: a classification network of torchvision, or `timm:NAME`.
        least_side: images of fewer pixels on their shorter side are scaled up to it; 0 for none.
        mode: `head` trains the last layer alone, and everything is computed as in evaluation; `finetune` trains the
            last layer until `head_share` of the run, then all layers.
        head_share: that share, in [0, 1).
        backbone_lr_scale: learning rate of the layer before the last one, as a multiple of that of the last one.
        first_lr_scale: learning rate of the first layer, as a multiple of that. The layers between them are spaced
            geometrically (discriminative fine-tuning: Howard & Ruder 2018, arXiv 1801.06146).
        norm_statistics: with `finetune`, `frozen` keeps the statistics of batch norms, `batch` takes those of each
            batch and updates the running ones.
    """

    # Buffers that follow from the statistics of the images, and are not learned.
    computed = ("scale", "shift")
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        backbone: str = "resnet18",
        least_side: int = 0,
        mode: str = "finetune",
        head_share: float = 0.25,
        backbone_lr_scale: float = 0.1,
        first_lr_scale: float = 0.1,
        norm_statistics: str = "frozen",
    ) -> None:
        super().__init__()
        self.least_side = least_side
        self.mode, self.head_share, self.norm_statistics = mode, head_share, norm_statistics
        self.backbone_lr_scale, self.first_lr_scale = backbone_lr_scale, first_lr_scale
        found = make_backbone(backbone, classes)
        self.network = found.network
        self.head = found.head
        """Names of the parameters of the new head, within `network`."""
        self._mean, self._std = found.mean, found.std
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.register_buffer("shift", torch.zeros(3, 1, 1))
        if mode == "head":
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name in self.head)
        self.train()  # Lightning leaves the modes of modules as they were made

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the conversion for images that were normalised by these statistics, each of one or three channels."""
        with torch.no_grad():
            ours, theirs = (torch.tensor(pair, device=self.scale.device).view(2, -1, 1, 1)
                            for pair in ((mean, std), (self._mean, self._std)))  # fmt: skip
            self.scale.copy_((ours[1] / theirs[1]).expand_as(self.scale))
            self.shift.copy_(((ours[0] - theirs[0]) / theirs[1]).expand_as(self.shift))

    @property
    def _last(self) -> nn.Module:
        """The layer of the head, or of the first of several heads."""
        return self.network.get_submodule(min(self.head).rpartition(".")[0])

    def features(self, x: Tensor) -> Tensor:
        """The input of the head, float [B, D], for normalised images [B, C, H, W]: means of maps or of tokens."""
        kept: list[Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            self(x)
        finally:
            hook.remove()
        (found,) = kept
        if found.ndim == 4 and isinstance(self._last, nn.Linear):  # channels last, as its input has to be
            return found.mean((1, 2))
        return found.flatten(2).mean(2) if found.ndim == 4 else found.mean(1) if found.ndim == 3 else found

    def classify(self, features: Tensor) -> Tensor:
        """Logits float [B, classes] of features, where the network ends with its head (`ends_with_head`)."""
        logits: Tensor = self._last(features)
        return logits

    @torch.no_grad()
    def ends_with_head(self, height: int, width: int, channels: int) -> bool:
        """Whether the logits of images of this shape are those of their features."""
        images = torch.linspace(-1, 1, 2 * channels * height * width).view(2, channels, height, width)
        was_training = self.training
        self.eval()
        found = isinstance(self._last, nn.Linear) and torch.allclose(self.classify(self.features(images)), self(images))
        self.train(was_training)
        return found

    def draw_head(self) -> None:
        """Draw new, small weights of the head, unlike the library: the first logits are near zero."""
        for name, parameter in self.network.named_parameters():
            if name in self.head:
                nn.init.zeros_(parameter) if parameter.ndim < 2 else nn.init.normal_(parameter, std=HEAD_STD)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.shift
        height, width = x.shape[2:]
        if (shorter := min(height, width)) < self.least_side:
            size = [side * self.least_side // shorter for side in (height, width)]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        logits: Tensor = self.network(x)
        return logits

    def train(self, mode: bool = True) -> "Pretrained":
        super().train(mode)
        if mode and self.mode == "head":
            self.network.eval()
        elif mode and self.norm_statistics == "frozen":
            for layer in self.network.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def lr_layers(self) -> list[Layer]:
        """The trainable parts of the network, from the first to the head, with their learning rates."""
        trainable = {name: each for name, each in self.network.named_parameters() if each.requires_grad}
        head = [each for name, each in trainable.items() if name in self.head]
        parts = []
        for part in _parts(self.network):
            own = {id(parameter) for parameter in part.parameters()}
            if chosen := [each for name, each in trainable.items() if id(each) in own and name not in self.head]:
                parts.append(chosen)
        listed = {id(each) for part in parts for each in part}
        if alone := [each for name, each in trainable.items() if id(each) not in listed and name not in self.head]:
            parts.insert(0, alone)  # such as the position embedding of a transformer
        steps = max(1, len(parts) - 1)
        scales = [self.backbone_lr_scale * self.first_lr_scale ** ((steps - at) / steps) for at in range(len(parts))]
        layers = [Layer(part, scale, self.head_share) for part, scale in zip(parts, scales, strict=True)]
        return [*layers, Layer(head, 1.0, 0.0)]


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of a network in their order: its children, where one that is most of it counts as its own children."""
    whole = _count(network)
    for child in network.children():
        if _count(child) > MOST_OF_THE_NETWORK * whole and isinstance(child, nn.Sequential | nn.ModuleList):
            yield from child
        else:
            yield child


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
