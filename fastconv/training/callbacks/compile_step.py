"""Compiles the training step before training starts, in its own segment of the clock."""

from typing import Protocol, cast

import lightning as L
import torch
from torch import Tensor

from fastconv.budget.clock import Clock


class CompilesTraining(Protocol):
    """A module that can compile its training step, such as `ImageClassifier`."""

    def compile_training(self, batch: tuple[Tensor, Tensor]) -> None:
        """Compile the training step for batches of this shape."""
        ...


class CompileStep(L.Callback):
    """Makes the module compile its training step for the run's microbatches, as soon as it is on its device.

    Args:
        clock: the run's clock; the time goes to its `compile` segment.
        shape: shape of a microbatch of images, [B, H, W, C].
    """

    def __init__(self, clock: Clock, shape: tuple[int, int, int, int]) -> None:
        self.clock, self.shape = clock, shape

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        images = torch.zeros(self.shape, dtype=torch.uint8, device=pl_module.device)
        labels = torch.zeros(self.shape[0], dtype=torch.int64, device=pl_module.device)
        with self.clock.segment("compile"), trainer.precision_plugin.train_step_context():
            cast(CompilesTraining, pl_module).compile_training((images, labels))
