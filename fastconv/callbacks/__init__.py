"""The callbacks under their public name; see `fastconv.training.callbacks`."""

from fastconv.training.callbacks import (
    AverageWeights,
    BudgetProgressBar,
    Checkpoints,
    CompileStep,
    FiniteLoss,
    OneCycleLR,
    Recorder,
    ScheduleLR,
    TimeBudget,
)

__all__ = [
    "AverageWeights",
    "BudgetProgressBar",
    "Checkpoints",
    "CompileStep",
    "FiniteLoss",
    "OneCycleLR",
    "Recorder",
    "ScheduleLR",
    "TimeBudget",
]
