"""Networks by name. A network takes normalised images float [B, C, H, W] and returns logits float [B, classes].

One whose first layer is computed from the training images has it as `whitening` (see `whitening.Whitening`).
"""

from collections.abc import Callable

from torch import nn

from fastconv.models.airbench import Airbench
from fastconv.models.davidnet import DavidNet
from fastconv.models.resnet import ResNet18

__all__ = ["MODELS", "Airbench", "DavidNet", "ResNet18", "build_model", "count_parameters"]

MODELS: dict[str, Callable[..., nn.Module]] = {"davidnet": DavidNet, "airbench": Airbench, "resnet18": ResNet18}


def build_model(name: str, channels: int, classes: int, **settings: object) -> nn.Module:
    """Make a network: `settings` are its own, such as `width`. Raises KeyError for an unknown name."""
    return MODELS[name](channels=channels, classes=classes, **settings)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
