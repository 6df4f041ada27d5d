"""Averages of the weights along the way, which do better than the last ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("none", "ema", "lookahead")


@dataclass(frozen=True)
class Average:
    """What is averaged, and how. Batch norms' running statistics are averaged with the weights."""

    kind: str = "none"
    """`ema`: an exponential moving average, which is what is scored and kept; `lookahead`: slow weights, to which the
    trained ones return (Zhang et al. 2019, arXiv 1907.08610; with the growing decay of Jordan 2024, arXiv 2404.00498).
    """
    every: int = 5
    """Optimizer steps between two updates of the average."""
    decay: float = 0.99
    """What is left of the average after a step, in [0, 1); of lookahead only at the end of the run."""

    def update(self, slow: list["Tensor"], fast: list["Tensor"], steps: int, progress: float) -> None:
        """Take weights into their average, in place; with lookahead, they become the average.

        Args:
            slow: the average.
            fast: the weights.
            steps: done so far.
            progress: of the run, in [0, 1].
        """
        import torch

        kept = self.decay**self.every
        if self.kind == "lookahead":
            kept *= progress**3
        else:  # lest a short run's average remember its first weights, as in TensorFlow's ExponentialMovingAverage
            updates = steps // self.every
            kept = min(kept, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(slow, fast, 1 - kept)
        if self.kind == "lookahead":
            torch._foreach_copy_(fast, slow)
