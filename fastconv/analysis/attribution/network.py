"""The network that is explained, asked in pixels, and what it means that a pixel is absent."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastconv.system.errors import InputError, nearest

# Training images that `baseline=images` stands for.
BASELINE_IMAGES = 32
# Share of pixels that are black in images which have a background.
BACKGROUND_SHARE = 1 / 3


class PixelNetwork(nn.Module):
    """A copy of a trained network that takes pixels in [0, 1], float [B, C, H, W], and cannot be changed.

    So noise and baselines are in the units of pixels, and a gradient says what a change of a pixel does.

    Args:
        model: takes normalised images. Its `blocks` name the modules among which `last` and `fine` are.
        mean, std: per channel, of pixel values in [0, 1].

    Raises InputError for a compiled network, whose layers cannot be looked into.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if hasattr(model, "_orig_mod"):
            raise InputError("a compiled network cannot be explained, since it hides its layers: give the plain one")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for module in self.model.modules():
            if hasattr(module, "inplace"):  # would overwrite what hooks and gradients need
                module.inplace = False
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits float [B, classes]."""
        return self.model((pixels - self.mean) / self.std)

    def layer(self, name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, tuple[int, int]]:
        """The module that `last`, `fine` or its own name stands for, and the size of its map of an image of a shape.

        Raises InputError for one that is not there or keeps no places apart.
        """
        modules = {key: module for key, module in self.model.named_modules() if key}
        sizes = self._map_sizes(modules, shape)
        blocks = [key for key in getattr(self.model, "blocks", ()) if key in sizes]
        chosen = {"last": blocks[-1], "fine": blocks[-2:][0]}.get(name, name) if blocks else name
        if chosen not in modules:
            names = [*(("last", "fine") if blocks else ()), *modules]
            raise InputError(f"unknown layer {name}{nearest(name, names)} Choose from: {', '.join(names)}")
        if chosen not in sizes:
            raise InputError(
                f"layer {name} keeps no places of the image apart: choose an earlier one, such as layer=last"
            )
        return modules[chosen], sizes[chosen]

    def _map_sizes(self, modules: dict[str, nn.Module], shape: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
        """Rows and columns of the output of every module whose output tells places apart."""
        sizes: dict[str, tuple[int, int]] = {}

        def note(key: str) -> Callable:
            def hook(module: nn.Module, inputs: object, output: object) -> None:
                if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                    sizes[key] = tuple(output.shape[2:])

            return hook

        handles = [module.register_forward_hook(note(key)) for key, module in modules.items()]
        height, width, channels = shape
        with torch.no_grad():
            self(torch.zeros(1, channels, height, width, device=self.mean.device))
        for handle in handles:
            handle.remove()
        return sizes


@dataclass(frozen=True)
class Pixels:
    """What an absent pixel looks like: `mean` float [1, C, 1, 1], and some training images, float [N, C, H, W]."""

    has_background: bool
    mean: Tensor
    images: Tensor

    @classmethod
    def of(cls, images: np.ndarray, count: int = 500) -> "Pixels":
        """From training images uint8 [N, H, W, C], of which evenly spread ones are kept."""
        some = images[np.linspace(0, len(images), min(len(images), 2000), endpoint=False).astype(np.int64)]
        has_background = bool((some == 0).all(axis=3).mean() >= BACKGROUND_SHARE)
        kept = as_pixels(some[:: max(1, len(some) // count)][:count])
        return cls(has_background, as_pixels(some).mean(dim=(0, 2, 3), keepdim=True), kept)

    def absent(self, name: str = "auto") -> Tensor:
        """The baseline of a name in `fastconv.analysis.attribution.method.BASELINES`."""
        if name == "images":
            return self.images[:BASELINE_IMAGES]
        return torch.zeros_like(self.mean) if name == "black" or (name == "auto" and self.has_background) else self.mean

    def to(self, device: torch.device) -> "Pixels":
        """The same on a device."""
        return Pixels(self.has_background, self.mean.to(device), self.images.to(device))


def as_pixels(images: np.ndarray) -> Tensor:
    """Images uint8 [N, H, W, C] as float [N, C, H, W] in [0, 1]."""
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2) / 255


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` rows."""
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def predict(network: PixelNetwork, inputs: Tensor, batch_size: int = 500) -> np.ndarray:
    """Class probabilities float32 [N, classes] of pixels float [N, C, H, W] or images uint8 [N, H, W, C]."""
    found = []
    with torch.no_grad():
        for part in batches(len(inputs), batch_size):
            some = inputs[part] if isinstance(inputs, Tensor) else as_pixels(inputs[part])
            found.append(network(some.to(network.mean.device)).softmax(1).cpu())
    return torch.cat(found).numpy()
