"""A whole training step: one batch in parts, and one update of the weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import ParallelStrategy, SingleDeviceStrategy
from torch import Tensor

from fastconv.training.gradient_exchange import GradientExchange
from fastconv.training.own_hooks import OwnHooks, has_own

Learn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps images and labels of a part to the mean loss, float [], and to sums over its images."""
Context = Callable[[], AbstractContextManager[object]]
# Of a module, by which it takes part in computing gradients.
BACKWARD_HOOKS = ("backward", "on_before_backward", "on_after_backward")


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


def is_plain(trainer: L.Trainer) -> bool:
    """Whether a Trainer trains on one device or exchanges gradients alone, without a gradient scaler or another wrapper
    around its module."""
    strategy, is_wrapped = trainer.strategy, trainer.strategy.model is not trainer.lightning_module
    is_single = isinstance(strategy, SingleDeviceStrategy) and not is_wrapped
    return trainer.scaler is None and (is_single or GradientExchange.of(trainer) is not None)


class CountedUpdates:
    """A Trainer's optimizer, whose steps Lightning counts as its own: `global_step` is their number.

    It calls `on_before_optimizer_step` where a callback or the module has it. Lightning's own wrapper goes through the
    strategy, the precision and the hooks of everything, which do nothing on one device without a gradient scaler.

    Args:
        module: it is trained by a Trainer, and optimizes manually.
        hooks: of its Trainer's callbacks.
    """

    def __init__(self, module: L.LightningModule, hooks: OwnHooks) -> None:
        trainer, hook = module.trainer, "on_before_optimizer_step"
        self._optimizer, self._hooks = trainer.optimizers[0], hooks
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
        self._hooks.call("on_before_optimizer_step", self._optimizer)
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
        trainer, strategy = module.trainer, module.trainer.strategy
        self._module = module
        self._hooks, self._zeroed = OwnHooks(module), trainer.optimizers[0]
        self._optimizer = cast(Updates, module.optimizers())
        self._exchange: GradientExchange | None = None
        self._accumulate = strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else None
        if is_plain(trainer):
            self._optimizer = CountedUpdates(module, self._hooks)
            self._exchange = GradientExchange.of(trainer)
        if self._exchange is not None:
            self._accumulate = self._exchange.accumulate
        self._forward = precision_context(trainer.precision_plugin)
        self._kind = module.device.type
        # Lightning's way to the gradients is left to modules with a part in it, and to its other strategies.
        self._is_managed = (self._accumulate is not None and self._exchange is None) or any(
            has_own(module, hook, L.LightningModule) for hook in BACKWARD_HOOKS
        )

    def __call__(self, images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> Tensor:
        """Train on a batch (see `train_step`)."""
        hooks = self._hooks
        hooks.call("on_before_zero_grad", self._zeroed)
        backward: Callable[[Tensor], object] = Tensor.backward
        if self._is_managed:
            backward = self._module.manual_backward
        elif self._exchange or hooks.of("on_before_backward") or hooks.of("on_after_backward"):
            backward = self._backward
        given = (images, labels, learn, self._optimizer, sums, self._forward, backward, self._accumulate)
        if self._forward is None or not torch.is_autocast_enabled(self._kind):
            return train_step(*given)
        # Lightning's strategies call this under autocast, which is for the forward passes alone.
        with torch.autocast(self._kind, enabled=False):
            return train_step(*given)

    def _backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss, in the order of Lightning's `manual_backward`."""
        if self._exchange is not None:
            self._exchange.prepare()
        self._hooks.call("on_before_backward", loss)
        loss.backward()
        if self._exchange is not None:
            self._exchange.check()
        self._hooks.call("on_after_backward")


def precision_context(plugin: Any) -> Context | None:
    """The context of a precision for forward passes; None for full precision, where there is nothing to enter."""
    if type(plugin) is Precision:
        return None
    if type(plugin) is MixedPrecision:  # its own context enters this one through two others
        return plugin.autocast_context_manager
    return cast(Context, plugin.train_step_context)
