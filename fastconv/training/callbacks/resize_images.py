"""Progressive resizing as a callback: makes training images smaller at the start of a run."""

from typing import Any

import lightning as L

from fastconv.models.resizing import Resizing
from fastconv.training.callbacks.time_budget import TimeBudget


class ResizeImages(L.Callback):
    """Sets the size of training images before every step, from the run's progress.

    Args:
        budget: the run's budget, which gets the share of a whole step's work that a step does.
        resizing: which images are small.
    """

    def __init__(self, budget: TimeBudget, resizing: Resizing) -> None:
        self._budget, self._resizing = budget, resizing

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._budget.begin_step(trainer)
        share = self._resizing.side_share(self._budget.progress)
        pl_module.side_share = share  # type: ignore[assignment]
        self._budget.work *= share**2
