"""Ends a run when its loss is no longer finite, before the weights are saved."""

import math
from typing import Any

import lightning as L
import torch

from fastconv.system.errors import SharedError
from fastconv.training.callbacks.recorder import Recorder
from fastconv.training.callbacks.time_budget import TimeBudget

# Names of torch's buffers for the statistics of a norm.
STATISTICS = ("running_mean", "running_var")


class FiniteLoss(L.Callback):
    """Raises InputError, with the step, the learning rate and advice, when a loss is infinite or not a number.

    Losses on a GPU are checked when the recorder has read them, so that the host does not wait for them. On CPUs, the
    other ranks learn of such a loss a step later; no checkpoint is written before.

    Args:
        budget: the run's budget, which counts its steps.
        recorder: the run's recorder, which comes before this in the Trainer's list of callbacks.
    """

    def __init__(self, budget: TimeBudget, recorder: Recorder) -> None:
        self._budget, self._recorder = budget, recorder
        self._is_finite = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            self._budget.agreement.ask("infinite", lambda: [not self._is_finite])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type != "cpu":  # the recorder's are sums over all ranks
            finite = math.isfinite(self._recorder.latest.get("train/loss", 0.0))
        else:
            finite = math.isfinite(outputs["loss"])
            if trainer.world_size > 1:
                self._check_ranks(trainer, finite)
                return
        if not finite:
            raise diverged("the loss", self._budget.steps, trainer)

    def _check_ranks(self, trainer: L.Trainer, finite: bool) -> None:
        """Check the loss of the step before, which all ranks know of, and that of the last step."""
        agreement, self._is_finite = self._budget.agreement, finite
        if agreement.found["infinite"] != [0.0]:
            raise diverged("the loss", self._budget.steps - 1, trainer)
        if trainer.should_stop and agreement.now([not finite]) != [0.0]:
            raise diverged("the loss", self._budget.steps, trainer)


def diverged(what: str, step: int, trainer: L.Trainer) -> SharedError:
    """The error for a run whose training diverged."""
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    return SharedError(
        f"{what} is not finite after step {step}, at learning rate {lr:.3g}: training diverged. Lower optimizer.max_lr,"
        " or try trainer.precision=fp32"
    )


def has_finite_weights(module: L.LightningModule) -> bool:
    """Whether every weight and every statistic of a norm is a finite number. Other buffers may hold anything, as the
    mask of an attention holds infinities."""
    statistics = (buffer for name, buffer in module.named_buffers() if name.endswith(STATISTICS))
    tensors = (*module.parameters(), *statistics)
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())
