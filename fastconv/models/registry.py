"""Networks by name, without importing torch: those of this package, and a user's own by their dotted path."""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fastconv.models.configs import SHIPPED
from fastconv.system.errors import InputError, reason
from fastconv.system.targets import KEY, call_target, import_target

if TYPE_CHECKING:
    from torch import nn

MARK = "@register_network"
MODEL_KEY = f"model.{KEY}"
# The setting of a network that is a library's.
BACKBONE = "backbone"

NetworkType = TypeVar("NetworkType", bound="type[nn.Module]")
_classes: dict[str, "type[nn.Module]"] = {}
_settings: dict[str, type] = {settings().name: settings for settings in SHIPPED}


def register_network(settings: type) -> Callable[[NetworkType], NetworkType]:
    """Register a class as the network `model=NAME`: put `@register_network(Settings)` on it in
    `fastconv/models/NAME.py`.

    Args:
        settings: a dataclass whose `name` is NAME, with `micro_batch_size` and the other arguments of the class.
    """

    def decorate(network: NetworkType) -> NetworkType:
        name = str(settings.name)  # type: ignore[attr-defined]
        _classes[name], _settings[name] = network, settings
        return network

    return decorate


@functools.cache
def network_names() -> list[str]:
    """The networks of this package, by the files that register them. The files are not imported here."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if f"\n{MARK}(" in file.read_text(encoding="utf-8"))


def settings_of(name: str) -> type:
    """The settings dataclass of a network. Imports the network's file if the settings are declared there.

    Raises KeyError for an unknown name.
    """
    if name not in _settings:
        network_class(name)
    return _settings[name]


def network_class(name: str) -> "type[nn.Module]":
    """The class of a network. Raises KeyError for an unknown name."""
    if name not in network_names():
        raise KeyError(name)
    importlib.import_module(f"fastconv.models.{name}")
    return _classes[name]


def build_model(name: str, channels: int, classes: int, **settings: object) -> "nn.Module":
    """Make a network.

    Args:
        name: name of a network of this package. With `_target_` among the settings it is only a label.
        channels, classes: number of channels of the images, and number of logits.
        settings: the network's arguments, such as `width`. For a user's own network, also `_target_`: the dotted path
            of a class or function that makes an nn.Module from `channels`, `classes` and the other arguments.

    Raises KeyError for an unknown name, InputError for a `_target_` that cannot be imported or refuses the arguments.
    """
    from torch import nn

    if KEY not in settings:
        return network_class(name)(channels=channels, classes=classes, **settings)
    target = str(settings.pop(KEY))
    found = import_target(target, MODEL_KEY)
    network = call_target(found, f"{MODEL_KEY}={target}", channels=channels, classes=classes, **settings)
    if not isinstance(network, nn.Module):
        raise InputError(f"{MODEL_KEY}={target} makes a {type(network).__name__}: it must make a torch.nn.Module")
    if lazy := [key for key, each in network.named_parameters() if nn.parameter.is_lazy(each)]:
        raise InputError(f"{MODEL_KEY}={target} has a lazy layer with {lazy[0]}: give its number of inputs")
    return network


def blueprint(name: str, channels: int, classes: int, **settings: object) -> "nn.Module":
    """The same network without memory for its weights, on torch's meta device. The random state does not change."""
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of each weight that a user's network loads from a file
                return build_model(name, channels, classes, **settings)
        except InputError:
            raise
        except Exception:  # some networks compute with values during construction
            if not _is_foreign(settings):
                raise
        try:
            return build_model(name, channels, classes, **settings).to("meta")
        except InputError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"{_label(settings)} cannot be made: {reason(error)}") from error


def _is_foreign(settings: Mapping[str, object]) -> bool:
    """Whether the network of these settings is the user's own, or a library's."""
    return KEY in settings or BACKBONE in settings


def _label(settings: Mapping[str, object]) -> str:
    """The setting, as key=value, that names a network which is not of this package."""
    return f"{MODEL_KEY}={settings[KEY]}" if KEY in settings else f"model.{BACKBONE}={settings[BACKBONE]}"


def check_network(
    name: str, shape: tuple[int, int, int], classes: int, settings: dict[str, object], channels_last: bool = True
) -> None:
    """Raise InputError if a network of the user or a library does not map images float [B, C, H, W] to logits
    [B, classes].

    It is called with two black images, in evaluation mode, and a user's own in training mode too. The images lie in
    memory as those of a run do, with the channels of a pixel beside each other. The random state does not change.

    Args:
        name: its name; a label, for a user's own.
        shape: height, width and channels of an image.
        settings: its arguments, including `_target_` or `backbone`.
        channels_last: whether its weights lie in memory as the images do.
    """
    import torch

    label = _label(settings)

    height, width, channels = shape
    images = torch.zeros(2, height, width, channels).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(name, channels, classes, **settings)
        if not count_parameters(network):
            raise InputError(f"{label} has no trainable parameters: there is nothing to train")
        before = network.state_dict().keys()
        # Between the ranks of a sweep's later job, nn.SyncBatchNorm would exchange statistics, which takes their GPUs.
        trains = KEY in settings and not torch.distributed.is_initialized()
        for mode in (False, True) if trains else (False,):
            when = " when it trains" if mode else ""
            try:
                if channels_last:
                    network.to(memory_format=torch.channels_last)
                logits = network.train(mode)(images)
            except Exception as error:  # the user's code may raise anything
                message = f"{label} fails{when} on images float {list(images.shape)}: {reason(error)}"
                raise InputError(message) from error
            if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
                is_tensor = isinstance(logits, torch.Tensor)
                made = f"a tensor {list(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
                raise InputError(
                    f"{label} makes {made} of images {list(images.shape)}{when}: it must make logits [2, {classes}]"
                )
        if made_late := network.state_dict().keys() - before:
            raise InputError(f"{label} makes {min(made_late)} when it is first called: make all layers in __init__")


def count_parameters(model: "nn.Module") -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
