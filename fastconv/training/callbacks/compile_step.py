"""Compiles the training step before training starts, in its own segment of the clock."""

from pathlib import Path
from typing import Protocol, cast

import lightning as L
import torch
from torch import Tensor

from fastconv.budget.clock import Clock
from fastconv.budget.compiled import keep_compiled, load_compiled
from fastconv.system.distributed import is_first_rank


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
        kept: the file that keeps the compiler's output; None to keep nothing.
    """

    def __init__(self, clock: Clock, shape: tuple[int, int, int, int], kept: Path | None = None) -> None:
        self.clock, self.shape, self.kept = clock, shape, kept

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with self.clock.segment("compile"):
            is_new = self.kept is not None and not load_compiled(self.kept)
            images = torch.zeros(self.shape, dtype=torch.uint8, device=pl_module.device)
            labels = torch.zeros(self.shape[0], dtype=torch.int64, device=pl_module.device)
            with trainer.precision_plugin.train_step_context():
                cast(CompilesTraining, pl_module).compile_training((images, labels))
            if self.kept is not None and is_new and is_first_rank():
                keep_compiled(self.kept)
