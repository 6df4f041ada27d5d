"""A whole training step: one batch in parts, and one update of the weights."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

import lightning as L
import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import ParallelStrategy, SingleDeviceStrategy
from torch import Tensor

from fastconv.training.batch_hooks import has_own, own_hooks

Learn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps images and labels of a part to the mean loss, float [], and to sums over its images."""
Context = Callable[[], AbstractContextManager[object]]


class Updates(Protocol):
    """An optimizer, as a step needs it."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> object:
        """Update the weights."""


def train_step(
    images: Tensor,
    labels: Tensor,
    learn: Learn,
    optimizer: Updates,
    sums: Tensor,
    forward: Context | None = None,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
    accumulate: Context | None = None,
) -> Tensor:
    """Zero the gradients, compute those of the mean loss of a batch part by part, and update the weights once.

    It reads nothing back from the device, and needs `images` and `labels` no longer than it computes.

    Args:
        images: [parts, n, ...]; batch norm takes its statistics over the n images of a part.
        labels: int64 [parts, n].
        learn: the loss of a part, and its sums.
        optimizer: of the weights that `learn` uses.
        sums: to which those of each part are added.
        forward: a context for each forward pass, such as autocast; None for none.
        backward: computes the gradients of a loss.
        accumulate: a context for all parts but the last, in which ranks do not exchange gradients; None for none.

    Returns the mean loss of the batch, float [], without a graph.
    """
    optimizer.zero_grad()
    parts = images.shape[0]
    losses: list[Tensor] = []

    def learn_from(image_part: Tensor, label_part: Tensor) -> None:
        if forward is None:  # contexts that do nothing would cost a small step more than its arithmetic
            loss, found = learn(image_part, label_part)
        else:
            with forward():
                loss, found = learn(image_part, label_part)
        loss = loss / parts
        backward(loss)
        sums.add_(found)
        losses.append(loss.detach())

    for part in zip(images.unbind(), labels.unbind(), strict=True):
        if accumulate is None or len(losses) == parts - 1:
            learn_from(*part)
        else:
            with accumulate():
                learn_from(*part)
    optimizer.step()
    return losses[0] if parts == 1 else torch.stack(losses).sum()


class CountedUpdates:
    """A Trainer's optimizer, whose steps Lightning counts as its own: `global_step` is their number.

    It calls `on_before_optimizer_step` where a callback or the module has it. Lightning's own wrapper goes through the
    strategy, the precision and the hooks of everything, which do nothing on one device without a gradient scaler.

    Args:
        module: it is trained by a Trainer, and optimizes manually.
    """

    def __init__(self, module: L.LightningModule) -> None:
        trainer, hook = module.trainer, "on_before_optimizer_step"
        self._trainer, self._module, self._optimizer = trainer, module, trainer.optimizers[0]
        self._before = own_hooks(hook, trainer.callbacks)  # type: ignore[attr-defined]
        self._module_before = getattr(module, hook) if has_own(module, hook, L.LightningModule) else None
        self._count = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        if type(self._optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.zero_grad = self._optimizer.zero_grad  # type: ignore[method-assign]

    def zero_grad(self) -> None:
        """Forget the gradients, as torch's own does in an entry of a profile, which takes longer than this."""
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                param.grad = None

    def step(self) -> None:
        """Update the weights."""
        self._count.increment_ready()
        for call in self._before:
            call(self._trainer, self._module, self._optimizer)
        if self._module_before is not None:
            self._module_before(self._optimizer)
        self._optimizer.step()
        self._count.increment_completed()


class WholeStep:
    """`train_step` for a module and its Trainer: with their precision, optimizer, ranks and callbacks.

    Lightning counts the steps of the optimizer; the hooks of callbacks around gradients and updates are called where a
    callback has them.

    Args:
        module: it is trained by a Trainer, and optimizes manually.
    """

    def __init__(self, module: L.LightningModule) -> None:
        trainer = module.trainer
        strategy, ranked = trainer.strategy, trainer.world_size > 1
        is_plain = isinstance(strategy, SingleDeviceStrategy) and trainer.scaler is None
        self._optimizer = CountedUpdates(module) if is_plain else cast(Updates, module.optimizers())
        # In full precision there is nothing to enter or to leave.
        full = type(trainer.precision_plugin) is Precision
        self._forward = None if full else trainer.precision_plugin.train_step_context
        # Lightning calls this under autocast, which is for the forward passes alone.
        self._outside = None if full else functools.partial(torch.autocast, module.device.type, enabled=False)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        watched = [*own_hooks("on_before_backward", callbacks), *own_hooks("on_after_backward", callbacks)]
        self._backward: Callable[[Tensor], object] = module.manual_backward if ranked or watched else Tensor.backward
        self._accumulate = strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else None
        self._trainer, self._module = trainer, module
        self._before_zero = own_hooks("on_before_zero_grad", callbacks)

    def __call__(self, images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> Tensor:
        """Train on a batch (see `train_step`)."""
        for call in self._before_zero:
            call(self._trainer, self._module, self._trainer.optimizers[0])
        if self._outside is None:
            return self._train(images, labels, learn, sums)
        with self._outside():
            return self._train(images, labels, learn, sums)

    def _train(self, images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> Tensor:
        return train_step(images, labels, learn, self._optimizer, sums, self._forward, self._backward, self._accumulate)
