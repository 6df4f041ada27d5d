"""Networks of rising size, and how the accuracy of each grows with the images that it sees."""

import math
from dataclasses import dataclass

from fastconv.models.configs import Airbench

# The law's exponent, and a size's `floor` and `images`, are of benchmarks/fit_ladder.py: fitted to held-out images of
# CIFAR-10, Fashion-MNIST and MNIST.
LEARNING = 0.8280


@dataclass(frozen=True)
class ModelSize:
    """A network, and how it learns: after `images`, its error is about twice what it tends to.

    After n images, log error = s (floor + log(1 + (images / n)**LEARNING)) + d. The data set's own s and d change
    nothing between networks. `operations` are those on an image, airbench94's being 1.
    """

    network: Airbench
    operations: float
    irreducible: float
    images: float

    def log_error(self, images: float) -> float:
        """The law after so many images, less the data set's part: what differs between networks."""
        return self.irreducible + math.log1p((self.images / max(images, 1.0)) ** LEARNING)


# From the smallest: airbench94's network, narrower and itself, then airbench95's and airbench96's, then that twice as
# wide, whose two numbers are no fit: it is taken to reach a fifth fewer errors than the one before.
MODEL_SIZES = (
    ModelSize(Airbench(widths=[8, 32, 32]), 0.029, 1.232, 48_154),
    ModelSize(Airbench(widths=[16, 64, 64]), 0.084, 0.712, 54_231),
    ModelSize(Airbench(widths=[32, 128, 128]), 0.279, 0.274, 70_543),
    ModelSize(Airbench(widths=[64, 256, 256]), 1.0, 0.0, 91_194),
    ModelSize(Airbench(widths=[128, 384, 384]), 2.55, -0.166, 108_704),
    ModelSize(Airbench(widths=[128, 384, 512], convs=3, residual=True, norm_momentum=0.1), 3.83, -0.989, 1_654_507),
    ModelSize(Airbench(widths=[256, 768, 1024], convs=3, residual=True, norm_momentum=0.1), 14.87, -1.2, 2_000_000),
)
# Those with which it was measured that images may rest (benchmarks/shortcuts.py), and for how few and many epochs:
# from 6 to 20. What they gain in log error was 0.005 to 0.06, less with more epochs: this on average.
PRUNED, PRUNED_EPOCHS, PRUNED_GAIN = tuple(size.network for size in MODEL_SIZES[2:4]), (5, 40), 0.03
# Those that begin to know the images by heart, and from how many epochs on.
LARGE, STRONG_EPOCHS = tuple(size.network for size in MODEL_SIZES[4:]), 16
