"""Networks by name. A network takes normalised images float [B, C, H, W] and returns logits float [B, classes]."""

from collections.abc import Callable

from torch import nn

from fastconv.models.davidnet import DavidNet

__all__ = ["MODELS", "DavidNet", "build_model", "count_parameters"]

MODELS: dict[str, Callable[..., nn.Module]] = {"davidnet": DavidNet}


def build_model(name: str, channels: int, classes: int, **settings: object) -> nn.Module:
    """Make a network: `settings` are its own, such as `width`. Raises KeyError for an unknown name."""
    return MODELS[name](channels=channels, classes=classes, **settings)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
