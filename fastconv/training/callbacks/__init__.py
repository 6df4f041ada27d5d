"""Callbacks that act on a training run: budget, schedule, records, guards, checkpoints, progress bar."""

from fastconv.training.callbacks.average_weights import AverageWeights
from fastconv.training.callbacks.capture_step import CaptureStep
from fastconv.training.callbacks.checkpoints import Checkpoints
from fastconv.training.callbacks.compare_ranks import CompareRanks
from fastconv.training.callbacks.compile_step import CompileStep
from fastconv.training.callbacks.finite_loss import FiniteLoss
from fastconv.training.callbacks.progress_bar import BudgetProgressBar
from fastconv.training.callbacks.prune_trial import PruneTrial
from fastconv.training.callbacks.recorder import Recorder
from fastconv.training.callbacks.resize_images import ResizeImages
from fastconv.training.callbacks.reuse_features import ReuseFeatures
from fastconv.training.callbacks.schedule_lr import OneCycleLR, ScheduleLR
from fastconv.training.callbacks.shared_steps import ShareSteps
from fastconv.training.callbacks.time_budget import TimeBudget
from fastconv.training.callbacks.tune_convolutions import TuneConvolutions
from fastconv.training.callbacks.watch_speed import WatchSpeed

__all__ = [
    "AverageWeights",
    "BudgetProgressBar",
    "CaptureStep",
    "Checkpoints",
    "CompareRanks",
    "CompileStep",
    "FiniteLoss",
    "OneCycleLR",
    "PruneTrial",
    "Recorder",
    "ResizeImages",
    "ReuseFeatures",
    "ScheduleLR",
    "ShareSteps",
    "TimeBudget",
    "TuneConvolutions",
    "WatchSpeed",
]
