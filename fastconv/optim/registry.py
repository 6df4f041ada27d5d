"""Optimizers and schedules by name. To add one, put a file that registers it into this folder."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn


class Optimizer(Protocol):
    """Settings that build a torch optimizer. Its parameter groups hold their peak learning rates as `max_lr`."""

    @property
    def name(self) -> str:
        """The NAME in `optimizer=NAME`."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "torch.optim.Optimizer":
        """Make the optimizer of a network's trainable parameters, at its peak learning rate."""


class Factors(NamedTuple):
    """`lr` multiplies each group's `max_lr`; `momentum` is the value to set, or None to leave the optimizer's."""

    lr: float
    momentum: float | None = None


class Schedule(Protocol):
    """Settings of a schedule: a pure function of a run's progress in [0, 1]."""

    @property
    def name(self) -> str:
        """The NAME in `schedule=NAME`."""

    @property
    def max_epochs(self) -> float | None:
        """Passes over the training images after which the run ends; None for no bound."""

    def factors(self, progress: float) -> Factors:
        """The factors of learning rate and momentum at a progress in [0, 1]."""


OPTIMIZERS: dict[str, type[Optimizer]] = {}
SCHEDULES: dict[str, type[Schedule]] = {}

OptimizerType = TypeVar("OptimizerType", bound=type)
ScheduleType = TypeVar("ScheduleType", bound=type)


def register_optimizer(settings: OptimizerType) -> OptimizerType:
    """Register a dataclass with `name` and `build` (see `Optimizer`) as `optimizer=NAME`.

    Its file must not import torch at the top, because command lines are read without torch.
    """
    OPTIMIZERS[settings().name] = settings
    return settings


def register_schedule(settings: ScheduleType) -> ScheduleType:
    """Register a subclass of `schedules.Curve` as `schedule=NAME`. Its file must not import torch at the top."""
    SCHEDULES[settings().name] = settings
    return settings


def import_registered() -> None:
    """Import the files of this folder that register something. The others are not needed before a run begins."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\n@register_optimizer\n" in text or "\n@register_schedule\n" in text:
            importlib.import_module(f"fastconv.optim.{file.stem}")
