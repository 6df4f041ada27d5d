"""Augmentation policies of torchvision by name, drawn from a plan's seeds.

RandAugment (Cubuk et al. 2019, arXiv 1909.13719), TrivialAugment Wide (Müller & Hutter 2021, arXiv 2103.10158) and
AugMix (Hendrycks et al. 2020, arXiv 1912.02781). Torch is imported when a policy is first used.

The first two compute in Pillow: the same bytes wherever its version and torchvision's are the same. AugMix blends in
float32 and draws with the C library's logarithms, so that another kind of processor may round a pixel to another side.
"""

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.data.augment.plan import Policy

if TYPE_CHECKING:
    import torch

POLICIES = ("none", "rand_augment", "trivial_augment", "augmix")


def apply_auto(batch: np.ndarray, policy: Policy, seeds: np.ndarray, fill: np.ndarray) -> None:
    """Replace, in place, each image of uint8 [B, H, W, C], of 1 or 3 channels, by what the policy makes of it.

    An image becomes what it would if torch.manual_seed(seed) came just before, but torch's own generator is neither
    used nor moved: several threads may do this while another one trains.

    Args:
        batch: the images.
        policy: names the policy, and has its settings.
        seeds: of each image's draws, int64 [B] in [0, 2**32).
        fill: colour of what a moved image uncovers, uint8 [C].
    """
    import torch
    from PIL import Image

    transform, generator = _transform(policy, fill.tolist()), torch.Generator()
    with _drawing_from(generator):
        for image, seed in zip(batch, seeds.tolist(), strict=True):
            generator.manual_seed(seed)
            # As an image of Pillow's: twice as fast as a tensor of 32x32 pixels.
            changed = transform(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image))
            image[:] = np.asarray(changed).reshape(image.shape)


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a policy does to a pixel, without marks of their builds."""
    # Each torchvision goes with one torch.
    return {name: version(name).partition("+")[0] for name in ("torchvision", "pillow")}


def _transform(policy: Policy, fill: list[int]) -> Any:
    from torchvision.transforms import v2

    if policy.auto == "rand_augment":
        return v2.RandAugment(policy.num_ops, policy.magnitude, fill=fill)
    return {"trivial_augment": v2.TrivialAugmentWide, "augmix": v2.AugMix}[policy.auto](fill=fill)


def _drawing_from(generator: "torch.Generator") -> Any:
    """A context in which this thread's draws come from `generator`: torchvision's transforms take none themselves."""
    import torch
    from torch.overrides import TorchFunctionMode

    draws = {torch.rand, torch.randint, torch._sample_dirichlet}

    class Drawing(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            return function(*args, **kwargs, generator=generator) if function in draws else function(*args, **kwargs)

    return Drawing()
