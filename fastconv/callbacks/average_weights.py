"""Keeps an average of the weights, and leaves it as the network when training ends."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from fastconv.callbacks.time_budget import TimeBudget
from fastconv.optim.averaging import Average


class AverageWeights(L.Callback):
    """Updates the average after every so many optimizer steps. An EMA is what validations score.

    Its state in a checkpoint is the average; the checkpoint's weights are those that are trained, and after training
    the average. Stands before whatever writes checkpoints among the Trainer's callbacks.

    Args:
        average: what is averaged.
        budget: the run's budget, which knows the progress.
    """

    def __init__(self, average: Average, budget: TimeBudget) -> None:
        self._average, self._budget = average, budget
        self._slow: list[Tensor] | None = None
        self._trained: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tensors = self._tensors(pl_module)
        if self._slow is None:
            self._slow = [tensor.clone() for tensor in tensors.values()]
        # A checkpoint was read to the CPU, and perhaps laid out otherwise.
        self._slow = [
            torch.empty_like(tensor).copy_(slow) for tensor, slow in zip(tensors.values(), self._slow, strict=True)
        ]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or self._budget.steps % self._average.every:
            return
        with torch.no_grad():
            fast = list(self._tensors(pl_module).values())
            self._average.update(self._slow, fast, self._budget.steps, self._budget.progress)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._slow is not None and self._average.kind == "ema" and trainer.state.fn == "fit":
            self._trained = {name: tensor.clone() for name, tensor in self._tensors(pl_module).items()}
            self._set(pl_module, self._slow)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trained is not None:
            self._set(pl_module, list(self._trained.values()))
            self._trained = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._budget.steps >= self._average.every:  # before the first update there is no average
            self._set(pl_module, self._slow)
        self._slow = None  # no checkpoint needs it any more

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for name, tensor in (self._trained or {}).items():  # a signal in a validation
            checkpoint["state_dict"][f"model.{name}"] = tensor

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self._slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._slow = state["slow"]

    @staticmethod
    def _tensors(pl_module: L.LightningModule) -> dict[str, Tensor]:
        """What is averaged: all that training changes, by name."""
        trained = [(name, each) for name, each in pl_module.model.named_parameters() if each.requires_grad]
        running = [(name, each) for name, each in pl_module.model.named_buffers() if each.is_floating_point()]
        return {name: each.detach() for name, each in trained + running}

    def _set(self, pl_module: L.LightningModule, values: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._tensors(pl_module).values()), values)
