"""Reports the validations of a search's trial, and ends a trial that is pruned."""

import math
from typing import Any, cast

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from fastconv.analysis.evaluation.per_class import balanced_accuracy, macro_f1
from fastconv.config.search import PARTS, Trial
from fastconv.training.callbacks.time_budget import TimeBudget
from fastconv.training.scored_module import ScoredModule

# How the objectives in which each class counts the same follow from the labels and predictions of a validation.
OF_CONFUSION = {"balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}


class PruneTrial(L.Callback):
    """Reports the held-out objective at equal parts of the training, and ends the run if the search's pruner says so.

    Trials validate at different moments, since their epochs take different shares of the budget. The score at the end
    of a part is interpolated between the validations before and after it; the first validation alone reports nothing.

    Args:
        trial: the trial that this run is.
        budget: the run's budget, which knows its progress.
        objective: the result that the search compares.
    """

    def __init__(self, trial: Trial, budget: TimeBudget, objective: str) -> None:
        self._trial, self._budget, self._objective = trial, budget, objective
        self._before: tuple[float, float] | None = None
        self.has_ended = False
        """Whether it has ended the run."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        cast(ScoredModule, pl_module).counts_validations = self._objective in OF_CONFUSION

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if of_confusion := OF_CONFUSION.get(self._objective):
            score = of_confusion(cast(ScoredModule, pl_module).confusion.numpy())
        else:
            score = float(trainer.callback_metrics["validate/accuracy"])
        progress, before = self._budget.progress, self._before
        self._before = (progress, score)
        if before is None or progress <= before[0]:
            return
        for part in range(math.floor(before[0] * PARTS) + 1, math.floor(progress * PARTS) + 1):
            share = (part / PARTS - before[0]) / (progress - before[0])
            self._trial.report(part, before[1] + share * (score - before[1]))
        if progress < 1 and self._trial.is_hopeless():
            self.has_ended = trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"before": None if self._before is None else list(self._before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = None if state["before"] is None else (state["before"][0], state["before"][1])
