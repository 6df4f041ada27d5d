"""Progressive resizing: images are smaller at the start of training, so that more of them fit into the time.

Howard 2018 (fast.ai's entry to DAWNBench) and Tan & Le 2021 (arXiv 2104.00298) train so. Convolutions take any size,
and what a network learns from small images it need not learn again from whole ones.
"""

from dataclasses import dataclass

# Small images have this share of their side: 24 of 32 pixels. A step takes its square of the time: 0.56 were measured.
SIDE_SHARE = 0.75
# Images of fewer pixels on their shorter side are not made smaller: little would be left of them.
LEAST_SIDE = 24


@dataclass(frozen=True)
class Resizing:
    """Which images are small: those until a progress, in [0, 1); 0 for none."""

    until: float = 0.0

    def side_share(self, progress: float) -> float:
        """Share of their side that images keep in the step that ends at this progress."""
        return SIDE_SHARE if progress <= self.until else 1.0

    @property
    def gain(self) -> float:
        """How many times as many images fit into the same time."""
        return self.until / SIDE_SHARE**2 + 1 - self.until


def small_side(side: int) -> int:
    """Pixels of a side of small images."""
    return round(SIDE_SHARE * side)
