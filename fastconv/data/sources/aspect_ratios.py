"""How many images lose much to a crop, and whether `dataset.resize=auto` crops or pads them."""

import numpy as np
from numpy.typing import NDArray

from fastconv.system.wording import counted

# Share of an image outside of the square in its middle from which on a crop may cut off what it shows. 4:3, in which
# many cameras and phones take photographs, loses exactly this share.
MOST_CROPPED = 0.25
# Share of the training images that lose more than that from which on `auto` pads. Each of them may be cut off, in
# training and when it is classified, and padding costs them resolution alone; square images it leaves as they are. Of
# 3:2 and of 3:1 photographs padding learned more than crops (benchmarks/results/whole_pictures.md).
MOST_IMAGES = 0.1


def lose_much(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images lose more than `MOST_CROPPED` to a crop, bool [N]. `sizes` is width and height, int64 [N, 2]."""
    found: NDArray[np.bool_] = sizes.min(1) < (1 - MOST_CROPPED) * sizes.max(1)
    return found


def choose_resize(sizes: NDArray[np.int64]) -> str:
    """The choice of `dataset.resize=auto` by the sizes of the training images, int64 [N, 2]: `pad` if more than
    `MOST_IMAGES` of them lose much to a crop, else `crop`."""
    return "pad" if len(sizes) and lose_much(sizes).mean() > MOST_IMAGES else "crop"


def describe_choice(sizes: NDArray[np.int64], has_test: bool = True) -> str:
    """The choice and its reason as a sentence; empty if all images are square, which are the same in every way.

    Args:
        sizes: of the training images, or of all images if there is no test split yet.
        has_test: whether there is one.
    """
    if (sizes[:, 0] == sizes[:, 1]).all():
        return ""
    losing, kind = int(lose_much(sizes).sum()), "training image" if has_test else "image"
    return (
        f"dataset.resize=auto chose {choose_resize(sizes)}: {losing:,} of {counted(len(sizes), kind)} would"
        " lose more than a quarter to a crop"
    )
