"""Averages of a network's weights over the steps of its training."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors to average, by name, not copied: all parameters and the statistics of batch norms."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


class Average(ABC):
    """An average of the weights, updated every `update_interval` optimizer steps.

    `slow` holds the average so far, by name, and is empty before the first update. A resumed run needs nothing else.

    Args:
        update_interval: optimizer steps between two updates.
        decay: share of the average, in [0, 1), that remains after each step.
    """

    validated: bool
    """Whether a validation during training scores the average instead of the learning weights."""

    def __init__(self, update_interval: int, decay: float) -> None:
        self.update_interval, self.decay = update_interval, decay
        self.slow: dict[str, Tensor] = {}

    def start(self, weights: dict[str, Tensor]) -> None:
        """Move the average to the device of the weights. Called before the first step, also when a run is resumed."""
        self.slow = {name: torch.empty_like(weights[name]).copy_(slow) for name, slow in self.slow.items()}

    def is_due(self, steps: int) -> bool:
        """Whether the average is updated after this step."""
        return steps % self.update_interval == 0

    @abstractmethod
    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        """Update the average after `steps` steps, at a progress in (0, 1]. May change the weights."""

    @torch.no_grad()
    def finish(self, weights: dict[str, Tensor]) -> None:
        """Set the weights to the average, and clear the average."""
        copy_weights(weights, self.slow)
        self.slow = {}

    @torch.no_grad()
    def _pull(self, weights: dict[str, Tensor], share: float) -> None:
        """Move the average towards the weights by a share of the distance."""
        torch._foreach_lerp_([*self.slow.values()], [weights[name] for name in self.slow], share)


class MovingAverage(Average):
    """An exponential moving average, which starts at the weights of its first update (Polyak & Juditsky 1992)."""

    validated = True

    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        if self.slow:
            # The last update of a run may come after fewer steps than the interval.
            self._pull(weights, 1 - self.decay ** (steps % self.update_interval or self.update_interval))
        else:
            self.slow = _first(weights)


class Lookahead(Average):
    """Slow weights, to which the learning weights are reset at each update (Zhang et al. 2019, arXiv 1907.08610).

    As in cifar10-airbench (Jordan 2024), the share of the slow weights that remains grows with the cube of the
    progress, to `decay` per step at the end, and steps after the last update are discarded. A run that ends before its
    first update keeps what it has learned.
    """

    validated = False

    def start(self, weights: dict[str, Tensor]) -> None:
        super().start(weights)
        self.slow = self.slow or _first(weights)

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        if self.is_due(steps):
            self._pull(weights, 1 - self.decay**self.update_interval * progress**3)
            copy_weights(weights, self.slow)
        elif steps < self.update_interval:
            copy_weights(self.slow, {name: weights[name] for name in self.slow})


AVERAGES: dict[str, type[Average]] = {"ema": MovingAverage, "lookahead": Lookahead}


@torch.no_grad()
def clone_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the weights that does not change with them."""
    return {name: tensor.clone() for name, tensor in weights.items()}


def _first(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first average of some weights, without what holds infinities, such as a mask, whose average is no number."""
    return {name: tensor for name, tensor in clone_weights(weights).items() if not torch.isinf(tensor).any()}


@torch.no_grad()
def copy_weights(weights: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    """Set weights, in place, to the tensors of the same names in `source`."""
    if source:
        torch._foreach_copy_([weights[name] for name in source], [*source.values()])
