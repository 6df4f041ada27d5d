"""Settings of the networks and of test-time augmentation. Importing them does not import torch."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from fastconv.system.errors import InputError
from fastconv.system.settings import BATCH, SHARE, Range, setting
from fastconv.system.targets import Component


class Network(Protocol):
    """Settings of a network, the group `model` of a config: these two, and the arguments of the network's class."""

    name: str
    micro_batch_size: int


# The keys of fastconv.models.layers.ACTIVATIONS, which imports torch.
ACTIVATIONS = ("relu", "celu", "gelu", "silu")


@dataclass
class DavidNet:
    """The 9-layer residual network that won DAWNBench."""

    name: str = "davidnet"
    width: int = setting(64, Range("a number of filters", 1, 1024))
    """Number of filters of the first layer; the others have two, four and eight times as many."""
    logits_scale: float = setting(0.125, Range("a factor", 1e-6, 1000))
    """Factor on the logits."""
    whitening: bool = False
    """Whiten 3x3 patches in a frozen first layer that is computed from the training images."""
    dirac: bool = False
    """Initialise the first filters of each convolution as the identity."""
    pool_before_norm: bool = False
    """Pool directly after the convolution, so that the norm computes on a quarter of the pixels."""
    activation: str = setting("relu", options=ACTIVATIONS)
    """Activation function: `relu`, `celu`, `gelu` or `silu`."""
    freeze_norm_scale: bool = False
    """Freeze the scale of batch norms, so that they learn only a bias."""
    micro_batch_size: int = setting(256, BATCH)
    """Images over which batch norm takes its statistics, unless the run sets its own number or a batch is smaller."""


@dataclass
class Airbench:
    """The network of the CIFAR-10 speed records: whitening and three groups of convolutions."""

    name: str = "airbench"
    widths: list[int] = setting([64, 256, 256], Range("numbers of filters", 1, 4096))
    """Number of filters of each group."""
    convs: int = setting(2, Range("a number of convolutions", 1, 16))
    """Number of convolutions of each group."""
    residual: bool = False
    """Give each group a skip connection around all convolutions but its first."""
    whitening_kernel: int | None = setting(None, Range("a number of pixels", 1, 8, note=", or null"))
    """Side of the whitened patches in pixels; null for 2, or 3 for grey images, whose patches have fewer dimensions,
    and with a stride above 1 for the stride and one pixel, or two."""
    whitening_stride: int = setting(1, Range("a number of pixels", 1, 64))
    """Pixels from a whitened patch to the next one: 2 for maps of half the side, which are much faster."""
    activation: str = setting("gelu", options=ACTIVATIONS)
    """Activation function: `relu`, `celu`, `gelu` or `silu`."""
    norm_momentum: float = setting(0.4, Range("a share", 0, 1, closed="right"))
    """Momentum of batch norm: the weight of a batch's statistics in the running statistics."""
    logits_scale: float = setting(1 / 9, Range("a factor", 1e-6, 1000))
    """Factor on the logits. Their initial size does not depend on it; it sets how fast the last layer learns, except
    with optimizer=muon, which compensates for it."""
    micro_batch_size: int = setting(256, BATCH)
    """Images over which batch norm takes its statistics, unless the run sets its own number or a batch is smaller."""


def patch_side(channels: int, kernel: int | None, stride: int) -> int:
    """Side in pixels of airbench's whitened patches, by the two settings and the channels of an image."""
    if kernel is not None:
        return kernel
    if stride == 1:
        return 2 if channels > 1 else 3
    return stride + 1 if channels > 1 else stride + 2


@dataclass
class ResNet18:
    """ResNet-18 for small images, the familiar reference."""

    name: str = "resnet18"
    width: int = setting(64, Range("a number of filters", 1, 1024))
    """Number of filters of the first stage; the others have two, four and eight times as many."""
    micro_batch_size: int = setting(128, BATCH)
    """Images over which batch norm takes its statistics, unless the run sets its own number or a batch is smaller."""


# Side in pixels of a user's own images for a pretrained network, unless dataset.image_size says otherwise, and of other
# images, if theirs is less: networks of ImageNet learned from 224, which take five times as long. A judgement, for
# CPUs; with 32 pixels a linear classifier had half as many images right (benchmarks/results/small_images.md).
PRETRAINED_SIDE = 96
# Work of a step in which only the last layer learns, as a share of a whole step's: the forward pass alone, without a
# gradient of the maps and one of the weights, each of as many operations.
HEAD_WORK = 1 / 3


@dataclass
class Pretrained:
    """A network of torchvision or timm with weights of ImageNet and a new head."""

    name: str = "pretrained"
    backbone: str = "resnet18"
    """A classification network of torchvision, such as `resnet18` or `mobilenet_v3_small`; or `timm:NAME` for one of
    timm (`pip install 'fastconv[timm]'`)."""
    weights: str | None = setting(None, path=True, local=True)
    """File of its weights, a state dict with the library's names; null for the library's own, which are fetched once
    and kept where the library keeps them."""
    least_side: int = setting(PRETRAINED_SIDE, Range("a number of pixels", 0, 1024))
    """The network scales smaller images up to this shorter side, in pixels; 0 takes all images as they are."""
    mode: str = setting("finetune", options=("head", "finetune"))
    """`head` trains the new last layer only, `finetune` the last layer first, then all."""
    head_share: float = setting(0.25, SHARE)
    """With `finetune`: the share of the run, in [0, 1), in which only the last layer is trained."""
    feature_share: float = setting(0.95, Range("a share", 0, 1, closed="right"))
    """With `head`, on a CPU: the share of the run, in (0, 1], in which images are new. If these are fewer than two
    epochs, the rest of the run trains the head on their features again and again."""
    # A step on new images takes 30 to 200 times as long as one on their features, which so come 2 to 10 times more.
    backbone_lr_scale: float = setting(0.1, Range("a factor", 0, 1000, closed="right"))
    """Peak learning rate of the layer before the last one, as a multiple of the last one's (`optimizer.max_lr`)."""
    first_lr_scale: float = setting(0.1, Range("a factor", 0, 1000, closed="right"))
    """Peak learning rate of the first layer, as a multiple of that. Those of the layers between are spaced
    geometrically."""
    norm_statistics: str = setting("frozen", options=("frozen", "batch"))
    """With `finetune`: `frozen` keeps the statistics of batch norms, `batch` updates them."""
    micro_batch_size: int = setting(64, BATCH)
    """Images that are computed at once, unless the run sets its own number or a batch is smaller."""

    @property
    def gain(self) -> float:
        """How many times as many images fit into the same time, since at first only the last layer is trained."""
        return self.head_share / HEAD_WORK + 1 - self.head_share if self.mode == "finetune" else 1.0


SHIPPED = (DavidNet, Airbench, ResNet18, Pretrained)
# Settings that do not describe the network itself.
_BESIDES = ("name", "micro_batch_size", "weights", "feature_share")


@dataclass
class CustomNetwork(Component):
    """A user's own network: `target(channels=, classes=, **arguments)` makes an nn.Module, which takes normalised
    images float [B, C, H, W] and returns logits [B, classes]."""

    group: ClassVar[str] = "model"

    micro_batch_size: int = setting(256, BATCH)
    """Images over which batch norm takes its statistics, unless the run sets its own number or a batch is smaller."""

    def check(self) -> None:
        """Raise InputError for a class that cannot be imported, or for an argument that follows from the images."""
        for name in {"channels", "classes"} & set(self.free):
            raise InputError(f"model.{name} follows from the images: leave it out")
        super().check()


# The largest set of views that may use the time which is left.
EXTENSIONS = ("none", "diagonal", "neighbors")


@dataclass
class TTA:
    """Test-time augmentation: `accuracy_tta` is scored with it, `accuracy` without it."""

    flip: bool | None = None
    """Score each image and its flipped copy; null to do so only if the augmentation flips training images."""
    shift: int = setting(1, Range("a number of pixels", 0, 1000))
    """Also score each image shifted by this many pixels along the diagonal, in both directions; 0 for no shifts."""
    neighbors: bool = False
    """Score shifts by `shift` pixels in all eight directions instead of along the diagonal only."""
    confidence_threshold: float = setting(1.0, Range("a probability", 0, 1, closed="right"))
    """Augment only images whose highest probability is below this value; 1 to augment all."""
    extend: str = setting("none", options=EXTENSIONS)
    """Use the remaining time of the budget for larger sets of views: shifts along the `diagonal`, or after those to all
    `neighbors`; `none` to end early."""


def model_settings(model: Any) -> dict[str, Any]:
    """The part of a model's config that describes the network itself: the arguments of `build_model`."""
    if isinstance(model, Component):
        return model.settings
    return {key: value for key, value in asdict(model).items() if key not in _BESIDES}
