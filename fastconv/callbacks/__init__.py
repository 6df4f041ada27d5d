"""What acts on a training run from beside it: the budget, the schedule, the records, the progress bar."""

from fastconv.callbacks.compile_step import CompileStep
from fastconv.callbacks.one_cycle import OneCycleLR, ScheduleLR
from fastconv.callbacks.progress_bar import BudgetProgressBar
from fastconv.callbacks.recorder import Recorder
from fastconv.callbacks.time_budget import TimeBudget

__all__ = ["BudgetProgressBar", "CompileStep", "OneCycleLR", "Recorder", "ScheduleLR", "TimeBudget"]
