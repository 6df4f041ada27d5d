"""The public import path of the callbacks that `fastconv.training.callbacks` defines."""

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
