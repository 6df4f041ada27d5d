"""Ends a run when its loss is no longer finite, before the weights are saved."""

import math
from collections import deque
from typing import Any

import lightning as L
import torch
from torch import Tensor

from fastconv.budget.pacing import PACING
from fastconv.system.errors import InputError
from fastconv.training.callbacks.time_budget import TimeBudget


class FiniteLoss(L.Callback):
    """Raises InputError, with the step, the learning rate and advice, when a loss is infinite or not a number.

    Losses on a GPU are checked some steps later, so that the host does not wait for them.

    Args:
        budget: the run's budget, which counts its steps.
    """

    def __init__(self, budget: TimeBudget) -> None:
        self._budget = budget
        self._finite = True
        self._pending: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(outputs["loss"])
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        finite = self._finite
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            raise diverged("the loss", self._budget.steps, trainer)

    def _check(self, loss: Tensor) -> None:
        if loss.device.type != "cuda":
            self._finite &= math.isfinite(loss)
            return
        copy = torch.empty_like(loss, device="cpu", pin_memory=True)
        copy.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((event, copy))
        if len(self._pending) > PACING.max_steps_ahead:
            event, copy = self._pending.popleft()
            event.synchronize()
            self._finite &= math.isfinite(copy)


def diverged(what: str, step: int, trainer: L.Trainer) -> InputError:
    """The error for a run whose training diverged."""
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    return InputError(
        f"{what} is not finite after step {step}, at learning rate {lr:.3g}: training diverged. Lower optimizer.max_lr,"
        " or try trainer.precision=fp32"
    )


def has_finite_weights(module: L.LightningModule) -> bool:
    """Whether every weight and every statistic of a network is a finite number."""
    tensors = (*module.parameters(), *module.buffers())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())
