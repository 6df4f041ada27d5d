"""The network that is explained, as a function of pixels in [0, 1], and the baselines that stand for absent pixels."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastconv.analysis.scoring import class_probabilities
from fastconv.data.dataset import evenly_spread
from fastconv.system.errors import InputError, nearest

# Training images that `baseline=images` stands for.
BASELINE_IMAGES = 32
# Share of pixels that are black in images which have a background.
BACKGROUND_SHARE = 1 / 3
# Images of zeros that show which modules have maps: one would not tell them from a table of positions, as SwinV2 has.
PROBED = 2


class PixelNetwork(nn.Module):
    """A copy of a trained network that takes pixels in [0, 1], float [B, C, H, W], and cannot be changed.

    So noise and baselines are in the units of pixels, and a gradient is that with respect to a pixel. Its normalisation
    is the textbook one: `fastconv.models.classifier` folds the range of bytes into it, which rounds otherwise.

    Args:
        model: takes normalised images. Its `blocks` name the modules among which `last` and `fine` are; without
            them those are the last modules whose maps have the smallest size, and the size before.
        mean, std: per channel, of pixel values in [0, 1].

    Raises InputError for a compiled network, which hides its layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if hasattr(model, "_orig_mod"):
            raise InputError("a compiled network cannot be explained, since it hides its layers: give the plain one")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for module in self.model.modules():
            if hasattr(module, "inplace"):  # would overwrite values that hooks and gradients need
                setattr(module, "inplace", False)  # noqa: B010 - of any activation: no type has it
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits float [B, classes]."""
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        return logits

    def layer(self, name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, tuple[int, int]]:
        """Return a module by `last`, `fine` or its own name, and rows and columns of its map of an image of a shape.

        Raises InputError for one that is not there or whose output has a single position.
        """
        modules = {key: module for key, module in self.model.named_modules() if key}
        maps = self._maps(modules, shape)
        named = getattr(self.model, "blocks", ())  # of a user's network, it may be anything, such as their settings
        named = named if isinstance(named, tuple | list) else ()
        blocks = [key for key in named if isinstance(key, str) and key in maps]
        blocks = blocks or _last_of_each_size(maps)
        chosen = {"last": blocks[-1], "fine": blocks[-2:][0]}.get(name, name) if blocks else name
        if chosen not in modules:
            names = [*(("last", "fine") if blocks else ()), *modules]
            raise InputError(f"unknown layer {name}{nearest(name, names)} Choose from: {', '.join(names)}")
        if chosen not in maps:
            raise InputError(f"layer {name} has no spatial map: choose an earlier one, such as layer=last")
        module = modules[chosen]
        return _channels_first(module) if maps[chosen].channels_last else module, maps[chosen].size

    def _maps(self, modules: dict[str, nn.Module], shape: tuple[int, int, int]) -> dict[str, "_Map"]:
        """Return the output of every module whose output is a map of more than one position."""
        maps: dict[str, _Map] = {}

        def note(key: str) -> Callable[[nn.Module, object, object], None]:
            def hook(module: nn.Module, inputs: object, output: object) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and len(output) == PROBED:
                    found = _Map.of(output, shape)
                    if min(found.size) > 1:
                        maps[key] = found

            return hook

        handles = [module.register_forward_hook(note(key)) for key, module in modules.items()]
        height, width, channels = shape
        with torch.no_grad():
            self(torch.zeros(PROBED, channels, height, width, device=self.mean.device))
        for handle in handles:
            handle.remove()
        return maps


@dataclass(frozen=True)
class _Map:
    """The map of a module: rows and columns, whether it is [B, H, W, C], and whether it has the shape of the image."""

    size: tuple[int, int]
    channels_last: bool
    is_of_image: bool

    @classmethod
    def of(cls, output: Tensor, shape: tuple[int, int, int]) -> "_Map":
        """Tell it from an output of four dimensions: [B, C, H, W], [B, H, W, C] as in Swin transformers, or values of
        another kind, such as those of a transformer's attention [B, heads, tokens, D]."""
        first, second, third = output.shape[1:]
        height, width, _ = shape

        def is_of_image(rows: int, columns: int) -> bool:
            return abs(rows - columns * height / width) < 1

        channels_last = is_of_image(first, second) and not is_of_image(second, third)
        size = (first, second) if channels_last else (second, third)
        # Convolutions without padding take as much from the shorter side as from the longer one.
        return cls(size, channels_last, height != width or is_of_image(*size))


def _last_of_each_size(maps: dict[str, _Map]) -> list[str]:
    """Of the modules in the order in which they compute, the last one with each size of its map, the largest first."""
    last = {each.size: key for key, each in maps.items() if each.is_of_image}
    last = last or {each.size: key for key, each in maps.items()}
    return [last[size] for size in sorted(last, reverse=True)]


def _channels_first(module: nn.Module) -> nn.Module:
    """A module whose output is that of another, [B, H, W, C], as [B, C, H, W], for methods that weigh channels.

    What follows the other module gets its output as before.
    """
    seen = nn.Identity()
    module.register_forward_hook(lambda _, __, output: seen(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    return seen


@dataclass(frozen=True)
class Pixels:
    """Baselines for absent pixels: the mean pixel float [1, C, 1, 1], and some training images, float [N, C, H, W]."""

    has_background: bool
    mean: Tensor
    images: Tensor

    @classmethod
    def of(cls, images: np.ndarray, count: int = 500) -> "Pixels":
        """Compute them from training images uint8 [N, H, W, C], of which `count` evenly spread ones are kept."""
        some = images[evenly_spread(len(images), 2000)]
        has_background = bool((some == 0).all(axis=3).mean() >= BACKGROUND_SHARE)
        kept = as_pixels(some[evenly_spread(len(some), count)])
        # By numpy, which makes no floats of all these images.
        mean = torch.from_numpy(some.mean(axis=(0, 1, 2), dtype=np.float64) / 255).float().view(1, -1, 1, 1)
        return cls(has_background, mean, kept)

    def absent(self, name: str = "auto") -> Tensor:
        """Return the baseline of a name in `fastconv.config.commands.Method.baseline`."""
        if name == "images":
            return self.images[evenly_spread(len(self.images), BASELINE_IMAGES)]
        return torch.zeros_like(self.mean) if name == "black" or (name == "auto" and self.has_background) else self.mean

    def to(self, device: torch.device) -> "Pixels":
        """Copy to a device."""
        return Pixels(self.has_background, self.mean.to(device), self.images.to(device))


def as_pixels(images: np.ndarray | Tensor) -> Tensor:
    """Convert images uint8 [N, H, W, C] to float [N, C, H, W] in [0, 1]."""
    tensor = images if isinstance(images, Tensor) else torch.tensor(np.asarray(images))
    return tensor.permute(0, 3, 1, 2) / 255


def predict(
    network: PixelNetwork,
    inputs: np.ndarray | Tensor,
    batch_size: int | None = None,
    temperature: float | None = None,
) -> np.ndarray:
    """Return class probabilities float32 [N, classes] of pixels float [N, C, H, W] or images uint8 [N, H, W, C].

    Args:
        batch_size: images to compute at once; None for as many as `images_at_once` says.
        temperature: what the logits are divided by; None for 1.
    """

    def logits(batch: Tensor) -> Tensor:
        found: Tensor = network(batch if batch.is_floating_point() else as_pixels(batch))
        return found / (temperature or 1.0)

    return class_probabilities(logits, inputs, network.mean.device, batch_size)
