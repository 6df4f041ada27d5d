"""Logs the curves of a run (loss, accuracy, schedule, speed and budget) to every logger of the Trainer."""

from typing import Any, Protocol, cast

import lightning as L
from lightning.pytorch.loggers import Logger

from fastconv.optim.momentum import momentum_of
from fastconv.training.callbacks.time_budget import TimeBudget


class ScoresTraining(Protocol):
    """A module that scores its training batches, such as `ImageClassifier`."""

    def take_train_scores(self) -> tuple[float, float]:
        """Mean loss and accuracy of the training images since the last call."""
        ...


# Number of rows in the metrics.csv of a run of the expected length.
RECORDS = 200


class Recorder(L.Callback):
    """Logs means over `every` optimizer steps. Reading values from the device more often would slow training.

    Its state in a checkpoint is everything that was logged. A resumed run logs its curves again from it, without the
    values that a killed process logged after its last checkpoint.

    Args:
        budget: the run's budget.
        epoch_images: images per epoch.
        batch_size: images per step.
        every: steps between two records.
    """

    def __init__(self, budget: TimeBudget, epoch_images: int, batch_size: int, every: int) -> None:
        self.budget = budget
        self.epoch_images, self.batch_size, self.every = epoch_images, batch_size, every
        self.latest: dict[str, float] = {}
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._since: tuple[int, float, float] = (0, 0.0, 0.0)

    @property
    def epochs(self) -> float:
        """Passes over the training images so far."""
        return self.budget.steps * self.batch_size / self.epoch_images

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = (self.budget.steps, self.budget.clock.counted(("train",)), self._waited(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        steps = self.budget.steps
        if steps == 1 or steps % self.every == 0 or trainer.should_stop:
            self._record(trainer, pl_module)

    def _record(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, trained, waited = self.budget.steps, self.budget.clock.counted(("train",)), self._waited(trainer)
        since_steps, since_trained, since_waited = self._since
        seconds = max(trained - since_trained, 1e-9)
        self._since = (steps, trained, waited)
        loss, accuracy = cast(ScoresTraining, pl_module).take_train_scores()
        group = trainer.optimizers[0].param_groups[0]
        self.latest = {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "schedule/lr": group["lr"],
            "schedule/momentum": momentum_of(group),
            "schedule/progress": self.budget.progress,
            "speed/images_per_second": (steps - since_steps) * self.batch_size / seconds,
            "speed/dataloader_wait_fraction": (waited - since_waited) / seconds,
            "budget/seconds_counted": self.budget.elapsed(),
            "train/epoch": self.epochs,
        }
        if self.budget.seconds is not None:
            self.latest["budget/used"] = self.latest["budget/seconds_counted"] / self.budget.seconds
        self._log(trainer, self.latest)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = {name: float(trainer.callback_metrics[name]) for name in ("validate/loss", "validate/accuracy")}
        self._log(trainer, {**scores, "train/epoch": self.epochs})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [[step, metrics] for step, metrics in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = [(step, metrics) for step, metrics in state["rows"]]

    def log_again(self, loggers: list[Logger]) -> None:
        """Log the values of an earlier process again."""
        for step, metrics in self._rows:
            for logger in loggers:
                logger.log_metrics(metrics, step=step)

    def _log(self, trainer: L.Trainer, metrics: dict[str, float]) -> None:
        self._rows.append((self.budget.steps, metrics))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.budget.steps)

    @staticmethod
    def _waited(trainer: L.Trainer) -> float:
        return float(getattr(getattr(trainer, "datamodule", None), "wait_seconds", 0.0))
