"""Automatic augmentation policies of torchvision, with a seed for each image.

RandAugment (Cubuk et al. 2019, arXiv 1909.13719), TrivialAugment Wide (Müller & Hutter 2021, arXiv 2103.10158) and
AugMix (Hendrycks et al. 2020, arXiv 1912.02781). Torch is imported when a policy is first used.

The first two compute in Pillow and give the same bytes with the same versions of Pillow and torchvision. AugMix blends
in float32 and draws with the C library's logarithms, so that another kind of processor may round a pixel differently.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.data.augment.transform import Drawn, Draws, Images

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

POLICIES = ("none", "rand_augment", "trivial_augment", "augmix")


@dataclass(frozen=True)
class AutoAugment:
    """A policy of torchvision.

    Args:
        name: one of `POLICIES`.
        num_ops, magnitude: settings of rand_augment.
    """

    name: str
    num_ops: int
    magnitude: int

    def draw(self, draws: Draws) -> Drawn | None:
        """Draw a seed in [0, 2**32) for the policy's own draws on each image, int64 [samples]."""
        return None if self.name == "none" else draws.integers(2**32)

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> None:
        """Apply the policy, in place, to each image of 1 or 3 channels.

        The result is as after torch.manual_seed(the image's seed), but torch's global generator is neither used nor
        changed, so several threads can do this while another one trains.
        """
        import torch
        from PIL import Image

        change, generator = self._torchvision(fill.tolist()), torch.Generator()
        with _drawing_from(generator):
            for image, seed in zip(images, drawn.tolist(), strict=True):
                generator.manual_seed(seed)
                # A Pillow image takes half the time of a tensor at 32x32 pixels.
                changed = change(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image))
                image[:] = np.asarray(changed).reshape(image.shape)

    def _torchvision(self, fill: Sequence[int]) -> "Callable[[Image], Image]":
        from torchvision.transforms import v2

        if self.name == "rand_augment":
            made: Callable[[Image], Image] = v2.RandAugment(self.num_ops, self.magnitude, fill=fill)
        else:
            made = {"trivial_augment": v2.TrivialAugmentWide, "augmix": v2.AugMix}[self.name](fill=fill)
        return made


@cache
def library_versions() -> dict[str, str]:
    """Versions, without build tags, of the libraries that decide the pixels that a policy makes."""
    # Each torchvision goes with one torch.
    return {name: version(name).partition("+")[0] for name in ("torchvision", "pillow")}


def _drawing_from(generator: "torch.Generator") -> AbstractContextManager[object]:
    """A context in which this thread draws from `generator`: torchvision's transforms take no generator themselves."""
    import torch
    from torch.overrides import TorchFunctionMode

    draws = {torch.rand, torch.randint, torch._sample_dirichlet}

    class Drawing(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            return function(*args, **kwargs, generator=generator) if function in draws else function(*args, **kwargs)

    return Drawing()
