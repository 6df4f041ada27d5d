"""What acts on a training run from beside it: budget, schedule, records, guards, checkpoints, progress bar."""

from fastconv.callbacks.average_weights import AverageWeights
from fastconv.callbacks.checkpoints import Checkpoints
from fastconv.callbacks.compile_step import CompileStep
from fastconv.callbacks.finite_loss import FiniteLoss
from fastconv.callbacks.one_cycle import OneCycleLR, ScheduleLR
from fastconv.callbacks.progress_bar import BudgetProgressBar
from fastconv.callbacks.recorder import Recorder
from fastconv.callbacks.time_budget import TimeBudget

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
