"""Schedules: pure functions from the progress of a run to factors for learning rate and momentum.

Progress is in [0, 1], whether steps or time drive it. So each schedule reaches its end in a run of any length.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fastconv.optim.registry import Factors as Factors
from fastconv.optim.registry import register_schedule
from fastconv.system.settings import EPOCHS, MOMENTUM, SHARE, Range, setting

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import OneCycleLR

# OneCycleLR counts whole steps. Its closed form is evaluated at fractional positions among this many steps, so that its
# off-by-one at the ends of the phases (the peak lies at step pct_start * total - 1) has no measurable effect.
NOMINAL_STEPS = 100_000


@dataclass(frozen=True)
class Curve(ABC):
    """The base of this package's schedules: the name, and the epochs after which the run ends."""

    name: str = "schedule"
    max_epochs: float | None = setting(25, EPOCHS)
    """Passes over the training images after which the run ends, if the budget allows; null for no bound."""

    @abstractmethod
    def factors(self, progress: float) -> Factors:
        """The factors at a progress in [0, 1]."""


@register_schedule
@dataclass(frozen=True)
class OneCycle(Curve):
    """Rises to the peak, then falls to almost zero, as torch's `OneCycleLR` (Smith & Topin 2017, arXiv 1708.07120)."""

    name: str = "one_cycle"
    pct_start: float = setting(0.2, Range("a share", 0.001, 0.999))
    """Share of the run, in (0, 1), at which the peak is reached."""
    anneal_strategy: str = setting("linear", options=("linear", "cos"))
    """Shape of the phases: `linear` or `cos`."""
    cycle_momentum: bool = False
    """Vary the momentum inversely to the learning rate, between max_momentum and base_momentum."""
    base_momentum: float = setting(0.85, MOMENTUM)
    """Momentum at the peak, with cycle_momentum."""
    max_momentum: float = setting(0.95, MOMENTUM)
    """Momentum at both ends, with cycle_momentum."""
    div_factor: float = setting(25.0, Range("a factor", 1, 1e9, note=": the peak is the highest learning rate"))
    """The first learning rate is the peak divided by this."""
    final_div_factor: float = setting(1e4, Range("a factor", 0, 1e9, closed="right"))
    """The last learning rate is the first divided by this."""
    three_phase: bool = False
    """Fall in two phases: first as steeply as it rose, then to the last learning rate."""

    @cached_property
    def _curve(self) -> "OneCycleLR":
        import torch
        from torch.optim.lr_scheduler import OneCycleLR

        parameter = torch.nn.Parameter(torch.zeros(1))
        curve = OneCycleLR(
            torch.optim.SGD([parameter], lr=1.0, momentum=self.max_momentum),
            max_lr=1.0,
            total_steps=NOMINAL_STEPS,
            pct_start=self.pct_start,
            anneal_strategy="cos" if self.anneal_strategy == "cos" else "linear",
            cycle_momentum=self.cycle_momentum,
            base_momentum=self.base_momentum,
            max_momentum=self.max_momentum,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
            three_phase=self.three_phase,
        )
        # Or else get_lr warns outside of its own step(). The flag is torch's own and private; to catch the warning at
        # each step would take longer than the rest of it.
        curve._get_lr_called_within_step = True
        return curve

    def factors(self, progress: float) -> Factors:
        curve = self._curve
        curve.last_epoch = progress * (NOMINAL_STEPS - 1)  # type: ignore[assignment]  # a fractional step
        (lr,) = curve.get_lr()
        # get_lr stores the momentum of that position in the optimizer.
        momentum = curve.optimizer.param_groups[0]["momentum"] if self.cycle_momentum else None
        return Factors(float(lr), momentum)


@register_schedule
@dataclass(frozen=True)
class Constant(Curve):
    """Stays at the peak from start to end."""

    name: str = "constant"

    def factors(self, progress: float) -> Factors:
        return Factors(1.0)


@dataclass(frozen=True)
class WarmUp(Curve):
    """A linear warm-up, then a descent whose shape subclasses define."""

    warmup: float = setting(0.0, SHARE)
    """Share of the run, in [0, 1), over which the learning rate rises linearly from zero to the peak."""
    min_lr_ratio: float = setting(0.0, Range("a share", 0, 1))
    """Learning rate at the end, as a share of the peak."""

    def factors(self, progress: float) -> Factors:
        if progress < self.warmup:
            return Factors(progress / self.warmup)
        remaining = self.descent((progress - self.warmup) / (1 - self.warmup))
        return Factors(self.min_lr_ratio + (1 - self.min_lr_ratio) * remaining)

    @abstractmethod
    def descent(self, position: float) -> float:
        """Share of the descent that remains, from 1 at position 0 to 0 at position 1."""


@register_schedule
@dataclass(frozen=True)
class Cosine(WarmUp):
    """Falls from the peak along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""

    name: str = "cosine"

    def descent(self, position: float) -> float:
        return (1 + math.cos(math.pi * position)) / 2


@register_schedule
@dataclass(frozen=True)
class Linear(WarmUp):
    """Falls from the peak in a straight line (budgeted training, arXiv 1905.04753)."""

    name: str = "linear"

    def descent(self, position: float) -> float:
        return 1 - position


@register_schedule
@dataclass(frozen=True)
class Step(Curve):
    """Multiplies the learning rate by `gamma` at each milestone."""

    name: str = "step"
    milestones: list[float] = setting([0.5, 0.75], Range("shares", 0, 1, closed="neither"))
    """Values of progress, in (0, 1), at which the learning rate falls."""
    gamma: float = setting(0.1, Range("a factor", 0, 1, closed="right"))
    """Factor on the learning rate at each milestone."""

    def factors(self, progress: float) -> Factors:
        passed = sum(progress >= milestone for milestone in self.milestones)
        return Factors(self.gamma**passed)
