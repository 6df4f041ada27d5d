"""Watches the speed of a run's steps: adapts the number of CPU threads, and discards a wrong benchmark."""

from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch

from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.threads import ThreadTrials, default_threads
from fastconv.data.features import is_reusing
from fastconv.system.distributed import is_first_rank
from fastconv.system.files import forget_measurement
from fastconv.training.callbacks.time_budget import TimeBudget

# Progress from which on no other number of threads is tried: the last step must not be one of a slow trial.
LAST_TRIAL = 0.9
# The benchmark was wrong if steps take this many times as long as it said, or as little: a judgement, wide enough for
# the benchmark of autotune, which has other batches than the run.
WRONG_FACTOR = 2.0
# With fewer steps than this, of which the first is slower, nothing is known.
MIN_STEPS = 4


class WatchSpeed(L.Callback):
    """On a CPU, tries another number of threads when steps slow down, and at the end checks the benchmark.

    Its place is after `TimeBudget`, which times the steps.

    Args:
        budget: the run's budget.
        speed: the speed profile that the run was planned by.
        threads: the number of CPU threads.
        may_adjust: whether this number may change: in a run of one process, if the config does not set it.
    """

    def __init__(self, budget: TimeBudget, speed: SpeedProfile, threads: int, may_adjust: bool) -> None:
        self._budget, self._speed = budget, speed
        self._trials = ThreadTrials(threads, default_threads(), usual=speed.step_seconds) if may_adjust else None
        self.threads = [threads]
        """Numbers of threads that computed steps, in order; those that were only tried are left out."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trials = self._trials
        if trials is None or is_reusing(pl_module):
            return
        before = trials.threads
        left = self._budget.seconds_left()
        threads = trials.add(self._budget.times.latest()[-1], self._budget.progress < LAST_TRIAL, left)
        if threads != before:
            torch.set_num_threads(threads)
        if trials.settled != self.threads[-1]:
            self.threads.append(trials.settled)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trials is not None:
            torch.set_num_threads(self._trials.stop())
        steps, speed = self._budget.times.latest(), self._speed
        if (
            is_reusing(pl_module)
            or pl_module.device.type != "cpu"
            or not speed.path
            or len(steps) < MIN_STEPS
            or not is_first_rank()
        ):
            return
        if not 1 / WRONG_FACTOR <= median(steps) / speed.step_seconds <= WRONG_FACTOR:
            forget_measurement(Path(speed.path))  # the next run measures anew
