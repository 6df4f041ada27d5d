"""The public place of the callbacks, which `fastconv.training.callbacks` defines."""

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
