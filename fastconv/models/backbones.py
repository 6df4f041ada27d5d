"""Classification networks of torchvision and timm by name, with a head for any number of classes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import nn

from fastconv.system.errors import InputError, nearest, reason

KEY = "model.backbone"
TIMM = "timm:"
# Names that timm itself would fetch or open (hf-hub:..., local-dir:...) are no names of networks.
_NAME = re.compile(r"[A-Za-z0-9_.]+")
# Networks with auxiliary heads, as torchvision makes them to load its weights: those heads are only for training from
# scratch, and the weights are for images that the network normalises once more.
_AUXILIARY = {"aux_logits": False, "init_weights": False, "transform_input": True}
ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": _AUXILIARY, "inception_v3": _AUXILIARY}


@dataclass(frozen=True)
class Backbone:
    """A network with random weights: the names of its head's parameters, and the normalisation of its images.

    `mean` and `std` are per channel, of pixel values in [0, 1].
    """

    network: nn.Module
    head: frozenset[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def make_backbone(name: str, classes: int) -> Backbone:
    """Make a network with a head for `classes`. Raises InputError for an unknown name or a missing package."""
    make = _maker(name)
    network = make(classes)
    return Backbone(network, _head(network, make, classes), *normalisation(name))


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel, of the images of a network's weights.

    Raises InputError as `make_backbone` does.
    """
    if name.startswith(TIMM):
        config = timm_config(name)
        return tuple(config.mean), tuple(config.std)
    preset = torchvision_weights(name).transforms()
    return tuple(preset.mean), tuple(preset.std)


def torchvision_weights(name: str) -> Any:
    """The weights of a network of torchvision, a `torchvision.models.WeightsEnum`: the best that it has.

    Raises InputError for an unknown name.
    """
    _require_torchvision(name)
    return torchvision.models.get_model_weights(name).DEFAULT


def timm_config(name: str) -> Any:
    """timm's description of the weights of a network, a `timm.models.PretrainedCfg`. Raises InputError as above."""
    timm, plain = import_timm(name), name.removeprefix(TIMM)
    _require_timm(timm, plain)
    return timm.models.get_pretrained_cfg(plain)


def import_timm(name: str) -> ModuleType:
    """Import timm. Raises InputError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"{KEY}={name} needs the package timm ({reason(error)}): pip install 'fastconv[timm]'"
        ) from error
    return timm  # type: ignore[no-any-return]


def _maker(name: str) -> Callable[[int], nn.Module]:
    """A function that makes the network for a number of classes."""
    if name.startswith(TIMM):
        timm, plain = import_timm(name), name.removeprefix(TIMM)
        _require_timm(timm, plain)
        return lambda classes: timm.create_model(plain, pretrained=False, num_classes=classes)
    _require_torchvision(name)
    arguments = ARGUMENTS.get(name, {})
    return lambda classes: torchvision.models.get_model(name, weights=None, num_classes=classes, **arguments)


def _head(network: nn.Module, make: Callable[[int], nn.Module], classes: int) -> frozenset[str]:
    """Names of the parameters whose shape depends on the number of classes."""
    other = dict(_without_memory(make, classes + 1).named_parameters())
    return frozenset(name for name, each in network.named_parameters() if each.shape != other[name].shape)


def _without_memory(make: Callable[[int], nn.Module], classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make(classes)
        except Exception:  # some networks compute with values during construction
            with torch.device("cpu"):
                return make(classes)


def _require_torchvision(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise InputError(
            f"{KEY}={name} is unknown{nearest(name, known)} Give a classification network of torchvision, such as"
            f" resnet18 or mobilenet_v3_small, or {TIMM}NAME for one of timm"
        )


def _require_timm(timm: ModuleType, name: str) -> None:
    if not _NAME.fullmatch(name) or not timm.is_model(name):
        known = timm.list_models()
        raise InputError(f"{KEY}={TIMM}{name} is unknown{nearest(name, known)} timm.list_models() lists all")
