"""The scaling law of test error: model sizes, and how the error of each falls with the images that it sees."""

import math
from dataclasses import dataclass, replace

from fastconv.models.configs import Airbench, Network

# The exponent, and `irreducible` and `half_images` of each model size, are fitted to the error on held-out images of
# CIFAR-10, Fashion-MNIST and MNIST (benchmarks/research/fit_scaling_law.py).
EXPONENT = 0.8280


@dataclass(frozen=True)
class ModelSize:
    """A network and its part of the scaling law.

    After n images, log error = s * (irreducible + log(1 + (half_images / n)**EXPONENT)) + d. The scale s and the offset
    d belong to the data set, and are the same for all networks.

    Args:
        flops: floating-point operations per image, airbench94's being 1.
        irreducible: log error that the network tends to, airbench94's being 0.
        half_images: images after which the error is about twice what it tends to.
        resizing_pays: whether a gain by progressive resizing was measured with this network
            (benchmarks/research/resizing.py).
        pruning_pays: whether a gain by data pruning was measured with this network (benchmarks/research/equal_work.py).
        is_large: whether the network begins to memorise images that it sees often.
    """

    network: Airbench
    flops: float
    irreducible: float
    half_images: float
    resizing_pays: bool = False
    pruning_pays: bool = False
    is_large: bool = False

    def log_error(self, images: float) -> float:
        """The law after this many images, without the data set's scale and offset."""
        return self.irreducible + math.log1p((self.half_images / images) ** EXPONENT)


# From the smallest: airbench94's network, narrower and itself, then airbench95's and airbench96's, then that twice as
# wide. The last one's values are a guess, not a fit: a fifth fewer errors than airbench96 in the end.
MODEL_SIZES = (
    ModelSize(Airbench(widths=[8, 32, 32]), 0.029, 1.232, 48_154),
    ModelSize(Airbench(widths=[16, 64, 64]), 0.084, 0.712, 54_231),
    ModelSize(Airbench(widths=[32, 128, 128]), 0.279, 0.274, 70_543, resizing_pays=True, pruning_pays=True),
    ModelSize(Airbench(widths=[64, 256, 256]), 1.0, 0.0, 91_194, pruning_pays=True),
    ModelSize(Airbench(widths=[128, 384, 384]), 2.55, -0.166, 108_704, is_large=True),
    ModelSize(
        Airbench(widths=[128, 384, 512], convs=3, residual=True, norm_momentum=0.1),
        3.83,
        -0.989,
        1_654_507,
        is_large=True,
    ),
    ModelSize(
        Airbench(widths=[256, 768, 1024], convs=3, residual=True, norm_momentum=0.1),
        14.87,
        -1.2,
        2_000_000,
        is_large=True,
    ),
)

# For images with colours: patches two pixels apart, so that all maps have half the side. Fitted, with the exponent
# above and the data set's d by 16-64-64, to CIFAR-10 (benchmarks/research/strides.py), after 33,000 images and more.
# The second one is right as often as 16-64-64 or more, trains as fast and scores nearly twice as fast; the first one
# trains faster than 8-32-32. On Fashion-MNIST, whose images are grey, 16-64-64 was better.
FAST_SIZES = (
    ModelSize(Airbench(widths=[16, 64, 64], whitening_stride=2), 0.035, 1.043, 39_895),
    ModelSize(Airbench(widths=[32, 128, 128], whitening_stride=2), 0.105, 0.728, 45_272),
)

# Side in pixels of the images that the law was fitted to. Maps of larger images are made as large as theirs: an
# assumption. Images of less than the least side are too small for the fast sizes.
SIDE, LEAST_FAST_SIDE = 32, 24
# Floating-point operations of training on one image of that side with airbench94's network.
FLOP = 0.71e9


def size_families(side: int, channels: int) -> tuple[tuple[ModelSize, ...], ...]:
    """The model sizes for images, the fast family first, if there is one.

    The sizes of a family rise in time and in what they can learn.

    Args:
        side: the shorter side of an image, in pixels.
        channels: its channels.
    """
    stride = _stride(side)
    sizes = tuple(_strided(size, stride) for size in MODEL_SIZES)
    if side < LEAST_FAST_SIDE or channels == 1:
        return (sizes,)
    # The fast sizes are better than the smallest one.
    return tuple(_strided(size, stride * size.network.whitening_stride) for size in FAST_SIZES), sizes[1:]


def model_size(network: Network, side: int, channels: int) -> ModelSize | None:
    """The model size with these settings, for such images; None for a network that the law does not have."""
    return next((size for family in size_families(side, channels) for size in family if size.network == network), None)


def flip_proxy(side: int) -> Airbench:
    """The network that tests flip invariance for images of this side: the smallest one."""
    return _strided(MODEL_SIZES[0], _stride(side)).network


def pruning_proxy(side: int) -> Airbench:
    """The network whose confidence prunes images of this side: the smallest but one."""
    return _strided(MODEL_SIZES[1], _stride(side)).network


def _stride(side: int) -> int:
    """The stride of a first layer that makes maps as large as for the images that the law was fitted to."""
    return max(1, round(side / SIDE))


def _strided(size: ModelSize, stride: int) -> ModelSize:
    """The model size with this stride of its network's first layer."""
    return replace(size, network=replace(size.network, whitening_stride=stride))
