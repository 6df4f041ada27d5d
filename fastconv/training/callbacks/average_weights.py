"""Averages the weights during training; the trained network is the average."""

from typing import Any

import lightning as L
from torch import Tensor

from fastconv.optim.averaging import Average, clone_weights, copy_weights, weights_of
from fastconv.training.agreement import average_over_ranks
from fastconv.training.callbacks.time_budget import TimeBudget


class AverageWeights(L.Callback):
    """Updates an average of the weights, and puts it into the network for validations and at the end of training.

    A checkpoint during training holds the learning weights and, as this callback's state, the average; the last
    checkpoint holds only the average. In the Trainer's list of callbacks it must come after the budget, which counts
    the steps, and before `Checkpoints`, which saves after validations.

    Args:
        average: the average to update.
        budget: the run's budget.
    """

    def __init__(self, average: Average, budget: TimeBudget) -> None:
        self.average, self._budget = average, budget
        self._learning: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.average.start(weights_of(pl_module.get_submodule("model")))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.average.is_due(self._budget.steps):
            self._update(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not at the end of the last step, of which this is not told if another callback ends the run.
        with self._budget.clock.segment("train"):  # the budget has closed it by now
            if not self.average.is_due(self._budget.steps):
                self._update(pl_module)
            self.average.finish(weights_of(pl_module.get_submodule("model")))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and self.average.validated and self.average.slow:
            weights = weights_of(pl_module.get_submodule("model"))
            self._learning = clone_weights(weights)
            copy_weights(weights, self.average.slow)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take_back(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # In place, because the checkpoint refers to the tensors. Only a run that is being ended saves in a validation.
        self._take_back(pl_module)
        if trainer.world_size > 1:  # parameters are equal on all ranks, batch-norm statistics are not
            names = [name for name, _ in pl_module.get_submodule("model").named_buffers() if name in self.average.slow]
            average_over_ranks([self.average.slow[name] for name in names], trainer.strategy.root_device)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average.slow = dict(state["average"])

    def _update(self, pl_module: L.LightningModule) -> None:
        """Update the average after a step."""
        weights = weights_of(pl_module.get_submodule("model"))
        self.average.update(weights, self._budget.steps, self._budget.progress)

    def _take_back(self, pl_module: L.LightningModule) -> None:
        """Put the weights that learn, which a validation had replaced by the average, back into the network."""
        copy_weights(weights_of(pl_module.get_submodule("model")), self._learning)
        self._learning = {}
