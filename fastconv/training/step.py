"""A whole training step: one batch in parts, and one update of the weights."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import lightning as L
import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

Learn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps images and labels of a part to the mean loss, float [], and to sums over its images."""


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
    forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
    accumulate: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Zero the gradients, compute those of the mean loss of a batch part by part, and update the weights once.

    It reads nothing back from the device, and needs `images` and `labels` no longer than it computes.

    Args:
        images: [parts, n, ...]; batch norm takes its statistics over the n images of a part.
        labels: int64 [parts, n].
        learn: the loss of a part, and its sums.
        optimizer: of the weights that `learn` uses.
        sums: to which those of each part are added.
        forward: a context for each forward pass, such as autocast.
        backward: computes the gradients of a loss.
        accumulate: a context for all parts but the last, in which ranks do not exchange gradients.

    Returns the mean loss of the batch, float [], without a graph.
    """
    optimizer.zero_grad()
    parts = len(images)
    losses: list[Tensor] = []
    for image_part, label_part in zip(images, labels, strict=True):
        with accumulate() if len(losses) < parts - 1 else nullcontext():
            with forward():
                loss, found = learn(image_part, label_part)
            loss = loss / parts
            backward(loss)
        sums += found
        losses.append(loss.detach())
    optimizer.step()
    return losses[0] if parts == 1 else torch.stack(losses).sum()


class WholeStep:
    """`train_step` for a module and its Trainer: with their precision, optimizer, ranks and callbacks.

    Lightning counts the steps of the optimizer and calls `on_before_optimizer_step`; the hooks of callbacks around
    gradients are called where a callback has them.

    Args:
        module: it is trained by a Trainer, and optimizes manually.
    """

    def __init__(self, module: L.LightningModule) -> None:
        trainer = module.trainer
        strategy, ranked = trainer.strategy, trainer.world_size > 1
        self._optimizer = cast(Updates, module.optimizers())
        # In full precision there is nothing to enter or to leave, and each of these contexts costs a step microseconds.
        full = type(trainer.precision_plugin) is Precision
        self._forward = nullcontext if full else trainer.precision_plugin.train_step_context
        # Lightning calls this under autocast, which is for the forward passes alone.
        self._outside = nullcontext if full else functools.partial(torch.autocast, module.device.type, enabled=False)
        watched = [*_having("on_before_backward", trainer), *_having("on_after_backward", trainer)]
        self._backward: Callable[[Tensor], object] = module.manual_backward if ranked or watched else Tensor.backward
        self._accumulate: Callable[[], AbstractContextManager[object]] = (
            strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else nullcontext
        )
        self._trainer, self._module = trainer, module
        self._before_zero = _having("on_before_zero_grad", trainer)
        if isinstance(trainer.model, DistributedDataParallel):
            # Every batch begins with the first rank's buffers, which Lightning would share only once in this way.
            trainer.model.register_forward_pre_hook(lambda ddp, _: setattr(ddp, "require_forward_param_sync", True))

    def __call__(self, images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> Tensor:
        """Train on a batch (see `train_step`)."""
        for callback in self._before_zero:
            callback.on_before_zero_grad(self._trainer, self._module, self._trainer.optimizers[0])
        with self._outside():
            return train_step(
                images, labels, learn, self._optimizer, sums, self._forward, self._backward, self._accumulate
            )


def _having(hook: str, trainer: L.Trainer) -> list[L.Callback]:
    """The Trainer's callbacks that have a hook of their own."""
    callbacks = getattr(trainer, "callbacks", ())
    return [each for each in callbacks if getattr(type(each), hook) is not getattr(L.Callback, hook)]
