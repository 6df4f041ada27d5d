"""Lets cuDNN try its algorithms for the convolutions of training, whose batches all have one shape."""

import lightning as L
import torch


class TuneConvolutions(L.Callback):
    """Sets `torch.backends.cudnn.benchmark` while the Trainer trains.

    It is off during validations, whose batches have other shapes: cuDNN would try its algorithms for each shape.
    """

    def __init__(self) -> None:
        self._before: bool | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._before is not None:
            torch.backends.cudnn.benchmark = self._before

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._before is not None:
            torch.backends.cudnn.benchmark = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._reset()

    def _reset(self) -> None:
        """Set the flag as it was before training."""
        if self._before is not None:
            torch.backends.cudnn.benchmark, self._before = self._before, None
