"""Averages of a network's weights over the steps of its training."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What is averaged, to be changed in place: all parameters, and the statistics of batch norms."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


class Average(ABC):
    """An average that takes the weights in every `update_interval` optimizer steps.

    `slow` is the average so far by name, empty as long as there is none; it is all that a run needs to go on.

    Args:
        update_interval: steps between two times that it takes the weights in.
        decay: how much of the average a step leaves, in [0, 1).
    """

    validated: bool
    """Whether the average, rather than the weights that learn, is what a validation in training is of."""

    def __init__(self, update_interval: int, decay: float) -> None:
        self.update_interval, self.decay = update_interval, decay
        self.slow: dict[str, Tensor] = {}

    def start(self, weights: dict[str, Tensor]) -> None:
        """Before the first step, or before the next one of a run that goes on: be where the weights are."""
        self.slow = {name: torch.empty_like(weights[name]).copy_(slow) for name, slow in self.slow.items()}

    def is_due(self, steps: int) -> bool:
        """Whether the weights are taken in after this step number."""
        return steps % self.update_interval == 0

    @abstractmethod
    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        """Take the weights in after `steps` steps, at a progress in (0, 1]; may change them."""

    @torch.no_grad()
    def finish(self, weights: dict[str, Tensor]) -> None:
        """Make the average the weights, and have none any more."""
        copy_weights(weights, self.slow)
        self.slow = {}

    @torch.no_grad()
    def _pull(self, weights: dict[str, Tensor], share: float) -> None:
        """Move the average towards the weights, by a share of the way."""
        torch._foreach_lerp_([*self.slow.values()], [weights[name] for name in self.slow], share)


class MovingAverage(Average):
    """The exponential moving average; begins with the weights that it takes in first (Polyak & Juditsky 1992)."""

    validated = True

    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        if self.slow:
            # The last step of a run may come sooner than the next time.
            self._pull(weights, 1 - self.decay ** (steps % self.update_interval or self.update_interval))
        else:
            self.slow = clone_weights(weights)


class Lookahead(Average):
    """Slow weights from which the learning ones begin anew each time (Zhang et al. 2019, arXiv 1907.08610).

    As in cifar10-airbench (Jordan 2024): the share of the slow weights that stays grows with the cube of the progress,
    to `decay` for each step at the end, and what is learned after the last time is left out.
    """

    validated = False

    def start(self, weights: dict[str, Tensor]) -> None:
        super().start(weights)
        self.slow = self.slow or clone_weights(weights)

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], steps: int, progress: float) -> None:
        if self.is_due(steps):
            self._pull(weights, 1 - self.decay**self.update_interval * progress**3)
            copy_weights(weights, self.slow)


AVERAGES: dict[str, type[Average]] = {"ema": MovingAverage, "lookahead": Lookahead}


@torch.no_grad()
def clone_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy that stays as it is."""
    return {name: tensor.clone() for name, tensor in weights.items()}


@torch.no_grad()
def copy_weights(weights: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    """Set weights, in place, to those of the same names in `source`."""
    if source:
        torch._foreach_copy_([weights[name] for name in source], [*source.values()])
