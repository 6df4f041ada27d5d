"""Makes Lightning leave out, in each step, calls of hooks that do nothing.

Around each batch Lightning calls five hooks of every callback, of the module, of the data and of the strategy, and some
eight Python functions for each of them. That is more than what a step of a small network takes otherwise.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import PassThroughProfiler

# Hooks of callbacks and of the module around each batch.
HOOKS = ("on_train_batch_start", "on_train_batch_end")
NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Records nothing, as Lightning's own, whose context around each hook takes longer than most of them."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """A context that does nothing."""
        return NOTHING


class BatchHooks(L.Callback):
    """Calls the hooks around a batch of all other callbacks, in their order, each where a callback has it.

    Lightning passes over a hook that is no function, so while the Trainer fits, these are None in the callbacks, and in
    the module where it has none.
    """

    def __init__(self) -> None:
        self._starts: list[Callable[..., object]] = []
        self._ends: list[Callable[..., object]] = []
        self._before: list[tuple[dict[str, Any], str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        self._starts, self._ends = (own_hooks(hook, others) for hook in HOOKS)
        for hook in HOOKS:
            idle = [] if has_own(pl_module, hook, L.LightningModule) else [pl_module]
            for owner in [*others, *idle]:
                self._before.append((vars(owner), hook, vars(owner).get(hook)))
                vars(owner)[hook] = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for call in self._starts:
            call(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for call in self._ends:
            call(trainer, pl_module, outputs, batch, batch_idx)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for attributes, hook, value in self._before:
            if value is None:  # it was the class's
                attributes.pop(hook, None)
            else:
                attributes[hook] = value
        self._before.clear()


def has_own(owner: object, hook: str, base: type) -> bool:
    """Whether an object has a hook that is not that of a base class, be it of its class or its own attribute."""
    call = getattr(owner, hook)
    return getattr(call, "__func__", call) is not getattr(base, hook)


def own_hooks(hook: str, callbacks: Iterable[L.Callback]) -> list[Callable[..., object]]:
    """A hook of all callbacks that have it."""
    return [getattr(callback, hook) for callback in callbacks if has_own(callback, hook, L.Callback)]


def leave_out_idle_hooks(trainer: L.Trainer) -> None:
    """Make a Trainer leave out the hooks around a batch that do nothing. It must be one that optimizes manually."""
    # First, so that a callback that is added during training comes after all that were there.
    trainer.callbacks.insert(0, BatchHooks())  # type: ignore[attr-defined]
    strategy, move = trainer.strategy, trainer.strategy.batch_to_device

    def move_if_elsewhere(batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        # Training batches are there: to find that out is less than to move them.
        if all(part.device == strategy.root_device for part in batch):
            return batch
        return move(batch, device, dataloader_idx)

    strategy.batch_to_device = move_if_elsewhere  # type: ignore[method-assign]
    strategy.on_train_batch_start = None  # type: ignore[method-assign, assignment]
    if type(trainer.precision_plugin) is Precision:  # full precision: there is nothing to enter
        trainer.precision_plugin.train_step_context = lambda: NOTHING  # type: ignore[method-assign, assignment, return-value]
