"""An attribution method as a value: which class of Captum, and how it is asked."""

from dataclasses import dataclass, field
from typing import Any

BASELINES = ("auto", "black", "mean", "images")


@dataclass(frozen=True)
class Method:
    """One way to say which pixels a network's answer comes from."""

    captum: str
    """Class of `captum.attr`, such as `IntegratedGradients`."""
    title: str | None = None
    """What figures and tables call it; null for the class."""
    layer: str | None = None
    """For a layer's method: `last` for the network's last block that tells places apart (4x4 of DavidNet's 32x32
    images), `fine` for the one before, or the name of one of its modules."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of Captum's `attribute`, such as `{n_steps: 32}`."""
    baseline: str = "auto"
    """What an absent pixel looks like, where the method asks: `black`, `mean` (of the training images), `images` (32 of
    them), or `auto`: black if the images have a black background, else mean."""
    noise_samples: int = 0
    """Noisy copies of each image over which the map is averaged (SmoothGrad, Smilkov et al. 2017); 0 for none."""
    noise: float = 0.15
    """Standard deviation of that noise, as a share of the range of pixel values."""
    window: float | None = None
    """For Occlusion: side of the covered square, as a share of the image's; it moves by half of itself."""
