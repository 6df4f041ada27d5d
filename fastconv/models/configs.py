"""Settings of the networks, and of test-time augmentation, without torch."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from fastconv.system.settings import BATCH, Range, setting
from fastconv.system.targets import Component


class Network(Protocol):
    """Settings of a network, as a config has them under `model`: these two, and the arguments of its class."""

    name: str
    micro_batch_size: int


# The keys of fastconv.models.layers.ACTIVATIONS, which imports torch.
ACTIVATIONS = ("relu", "celu", "gelu", "silu")


@dataclass
class DavidNet:
    """The 9-layer residual network that won DAWNBench."""

    name: str = "davidnet"
    width: int = setting(64, Range("a number of filters", 1, 1024))
    """Filters of the first layer; the others have two, four and eight times as many."""
    logits_scale: float = setting(0.125, Range("a factor", 1e-6, 1000))
    """Factor on the logits."""
    whitening: bool = False
    """Whiten 3x3 patches in a frozen first layer, computed from the training images."""
    dirac: bool = False
    """Let the first filters of each convolution begin by handing their inputs on."""
    pool_before_norm: bool = False
    """Pool directly after the convolution, so that the norm has a quarter of the pixels."""
    activation: str = setting("relu", options=ACTIVATIONS)
    """`relu`, `celu`, `gelu` or `silu`."""
    freeze_norm_scale: bool = False
    """Batch norms learn a bias only."""
    micro_batch_size: int = setting(256, BATCH)
    """Images over which batch norm takes its statistics, unless `micro_batch_size` is set or a batch is smaller."""


@dataclass
class Airbench:
    """The network of the CIFAR-10 speed records: whitening and three groups of convolutions."""

    name: str = "airbench"
    widths: list[int] = setting([64, 256, 256], Range("numbers of filters", 1, 4096))
    """Filters of each group."""
    convs: int = setting(2, Range("a number of convolutions", 1, 16))
    """Convolutions of each group."""
    residual: bool = False
    """Give each group a connection past its further convolutions."""
    whitening_kernel: int | None = setting(None, Range("a number of pixels", 1, 8, note=", or null"))
    """Side of the whitened patches in pixels; null for 2, or 3 for grey images, whose patches have fewer directions."""
    activation: str = setting("gelu", options=ACTIVATIONS)
    """`relu`, `celu`, `gelu` or `silu`."""
    norm_momentum: float = setting(0.4, Range("a share", 0, 1, closed="right"))
    """Share of a batch's statistics in the running ones."""
    logits_scale: float = setting(1 / 9, Range("a factor", 1e-6, 1000))
    """Factor on the logits, which begin with the same size whatever it is: how fast the last layer learns, but for
    optimizer=muon, which makes up for it."""
    micro_batch_size: int = setting(256, BATCH)
    """Images over which batch norm takes its statistics, unless `micro_batch_size` is set or a batch is smaller."""


@dataclass
class ResNet18:
    """ResNet-18 for small images, the familiar reference."""

    name: str = "resnet18"
    width: int = setting(64, Range("a number of filters", 1, 1024))
    """Filters of the first stage; the others have two, four and eight times as many."""
    micro_batch_size: int = setting(128, BATCH)
    """Images over which batch norm takes its statistics, unless `micro_batch_size` is set or a batch is smaller."""


SHIPPED = (DavidNet, Airbench, ResNet18)


@dataclass
class CustomNetwork(Component):
    """A network of the user's own: `target(channels=, classes=, **arguments)` makes an nn.Module, which takes
    normalised images float [B, C, H, W] and returns logits [B, classes]."""

    group: ClassVar[str] = "model"

    micro_batch_size: int = 256
    """Images over which batch norm takes its statistics, unless `micro_batch_size` is set or a batch is smaller."""


@dataclass
class TTA:
    """Test-time augmentation: what `accuracy_tta` is scored with, beside `accuracy` without."""

    flip: bool | None = None
    """Score each image and its mirror image; null for if the training images are mirrored (`dataset.flip` above 0)."""
    shift: int = setting(1, Range("a number of pixels", 0, 1000))
    """Pixels by which each image is also scored shifted along the diagonal, both ways; 0 for not."""
    neighbors: bool = False
    """Score it shifted by those pixels in all eight directions instead."""
    confidence_threshold: float = setting(1.0, Range("a probability", 0, 1, closed="right"))
    """Only images whose highest probability is below this; 1 for all."""


def model_settings(model: Any) -> dict[str, Any]:
    """What of a model's config is for the network itself: the arguments of `build_model`."""
    if isinstance(model, Component):
        return model.settings
    return {key: value for key, value in asdict(model).items() if key not in ("name", "micro_batch_size")}
