"""Changes the number of CPU threads while a run trains, where its own steps show that another one is faster."""

from typing import Any

import lightning as L
import torch

from fastconv.budget.threads import ThreadTrials, default_threads
from fastconv.training.callbacks.time_budget import TimeBudget

# Progress from which on no other number is tried: a slow trial must not be the last step.
LAST_TRIAL = 0.9


class AdjustThreads(L.Callback):
    """Tries another number of threads for a few steps when steps slow down, and keeps the faster.

    For a run of one process on a CPU whose number of threads is open. Its place is after `TimeBudget`, which times the
    steps.

    Args:
        budget: the run's.
        threads: the first number.
        most: number of threads at most; None for torch's own number.
    """

    def __init__(self, budget: TimeBudget, threads: int, most: int | None = None) -> None:
        self._budget, self._trials = budget, ThreadTrials(threads, default_threads() if most is None else most)
        self.used = [threads]
        """Numbers that computed steps, in order; those that were only tried left out."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        before = self._trials.threads
        threads = self._trials.add(self._budget.times.latest()[-1], may_try=self._budget.progress < LAST_TRIAL)
        if threads != before:
            torch.set_num_threads(threads)
        if self._trials.settled != self.used[-1]:
            self.used.append(self._trials.settled)

    def on_train_end(self, *_: Any) -> None:
        torch.set_num_threads(self._trials.stop())
