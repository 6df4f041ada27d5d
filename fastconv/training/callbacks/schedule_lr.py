"""The schedule as a callback: sets learning rate and momentum before every step, from the run's progress."""

import math
from typing import Any

import lightning as L
import torch
from torch import nn

from fastconv.models.configs import HEAD_WORK
from fastconv.optim import Schedule
from fastconv.optim.momentum import set_momentum
from fastconv.optim.schedules import OneCycle
from fastconv.training.callbacks.time_budget import TimeBudget


class ScheduleLR(L.Callback):
    """Scales each parameter group's `max_lr` by a schedule's factor at the run's progress.

    A group with `schedule_fraction` below 1 runs through the schedule in this share of the run, and does not change
    after it. From then on its gradients are not computed, as in airbench: for the bias of the first layer, the backward
    pass becomes shorter. A group with `schedule_start` above 0 runs through the schedule in the rest of the run, and
    its gradients are not computed before. (With a compiled step, which would have to be compiled again, and with
    DistributedDataParallel, which waits for every gradient, they are computed all the same; the optimizer gets none of
    a group that waits for its start.)

    Needs a `TimeBudget` among the Trainer's callbacks, which provides the progress.

    Args:
        schedule: the curve.
        max_lr: peak learning rate of all groups; None for each group's own `max_lr`.
    """

    def __init__(self, schedule: Schedule, max_lr: float | None = None) -> None:
        self.schedule = schedule
        self.max_lr = max_lr
        self._frozen: list[nn.Parameter] = []
        self._waiting: list[nn.Parameter] = []  # with gradients that the optimizer's momenta must not take in
        self._at = math.nan

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        budgets = [callback for callback in getattr(trainer, "callbacks", ()) if isinstance(callback, TimeBudget)]
        if not budgets:
            raise ValueError("the schedule follows the run's progress: add a TimeBudget to the Trainer's callbacks")
        self._budget = budgets[0]
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["max_lr"] = self.max_lr if self.max_lr is not None else group.get("max_lr", group["lr"])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._budget.begin_step(trainer)
        if self._set(trainer, pl_module):
            self._budget.work *= HEAD_WORK

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._budget.decide_before_update(trainer, pl_module)  # the step may have taken all the time
        if self._budget.progress != self._at:
            self._set(trainer, pl_module)
        for param in self._waiting:
            param.grad = None

    def _set(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Set learning rates and momenta; return whether groups wait for their start, without gradients until then."""
        progress = self._budget.progress
        self._at, factors, waits = progress, self.schedule.factors(progress), False
        self._waiting = []
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                own, begin, until = factors, group.get("schedule_start", 0.0), group.get("schedule_fraction", 1.0)
                if (begin, until) == (0, 1):
                    group["lr"] = group["max_lr"] * own.lr
                else:
                    own = self.schedule.factors(min(1.0, max(0.0, progress - begin) / (until - begin)))
                    is_early, is_over = progress < begin, until < 1 and progress >= until
                    group["lr"] = 0.0 if is_early or is_over else group["max_lr"] * own.lr
                    can_freeze = trainer.world_size == 1 and not getattr(pl_module, "is_compiled", False)
                    if (is_early or is_over) and can_freeze:
                        self._freeze(group["params"])
                    elif begin:
                        self._unfreeze(group["params"])
                    if is_early and not can_freeze:
                        self._waiting += group["params"]
                    waits = waits or (is_early and can_freeze)
                if own.momentum is not None:
                    set_momentum(group, own.momentum)
        return waits

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._unfreeze()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._unfreeze()

    def _freeze(self, params: list[nn.Parameter]) -> None:
        """Compute no gradients of parameters from now on."""
        for param in params:
            if param.requires_grad:
                param.requires_grad_(False)
                param.grad = None
                self._frozen.append(param)

    def _unfreeze(self, params: list[nn.Parameter] | None = None) -> None:
        """Compute the gradients of some or of all parameters again."""
        chosen = None if params is None else {id(param) for param in params}
        kept = []
        for param in self._frozen:
            if chosen is None or id(param) in chosen:
                param.requires_grad_(True)
            else:
                kept.append(param)
        self._frozen = kept


class OneCycleLR(ScheduleLR):
    """One cycle over a run of any length. Takes the settings of `torch.optim.lr_scheduler.OneCycleLR` by name:
    `max_lr`, `pct_start`, `anneal_strategy`, `cycle_momentum`, `base_momentum`, `max_momentum`, `div_factor`,
    `final_div_factor`, `three_phase`.
    """

    def __init__(self, max_lr: float | None = None, **settings: Any) -> None:
        super().__init__(OneCycle(**settings), max_lr)
