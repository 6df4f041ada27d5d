"""Logs the curves of a run (loss, accuracy, schedule, speed and budget) to every logger of the Trainer."""

import math
import time
from collections import deque
from typing import Any, Protocol, cast

import lightning as L
from lightning.pytorch.loggers import Logger

from fastconv.data.features import is_reusing
from fastconv.optim.momentum import momentum_of
from fastconv.training.callbacks.time_budget import TimeBudget
from fastconv.training.train_scores import PendingScores


class ScoresTraining(Protocol):
    """A module that scores its training batches, such as `ImageClassifier`."""

    def copy_train_scores(self) -> PendingScores:
        """Start to read mean loss and accuracy of the training images since the last call."""
        ...

    def take_train_scores(self) -> tuple[float, float]:
        """Read mean loss and accuracy of the training images since the last call."""
        ...


# Number of rows in the metrics.csv of a run of the expected length.
RECORDS = 200
# Seconds between two readings from a GPU: more rows than four a second show nothing, and each reading is work.
READ_SECONDS = 0.25


class Recorder(L.Callback):
    """Logs means over `every` optimizer steps. Reading values from the device more often would slow training.

    A GPU does not wait for a reading: a row is logged, with the number of its own step, when its values have arrived
    some steps later. Rows are at least `READ_SECONDS` apart.

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
        self._since: tuple[int, float, float] = (0, 0.0, 0.0)  # of the last record: steps, seconds trained and waited
        self._pending: deque[tuple[int, PendingScores, dict[str, float]]] = deque()
        self._read_at = -math.inf
        self._loggers: list[Logger] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            self.budget.agreement.ask("record", lambda: [self._is_due(time.monotonic())], of_first=True)

    @property
    def epochs(self) -> float:
        """Passes over the training images so far."""
        return self.budget.steps * self.batch_size / self.epoch_images

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loggers = trainer.loggers
        self._since = (self.budget.steps, self.budget.clock.counted(("train",)), self._waited(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps, last = self.budget.steps, trainer.should_stop
        if (steps == 1 or steps % self.every == 0 or last) and self._may_read(trainer, pl_module, last):
            self._record(trainer, pl_module)
        if self._pending:  # ranks must know the same at the same step
            self._log_arrived(wait=last or trainer.world_size > 1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log_arrived(wait=True)

    def _may_read(self, trainer: L.Trainer, pl_module: L.LightningModule, last: bool) -> bool:
        """Whether enough time has passed since the last reading, for all ranks by the first one's clock.

        On a CPU it always has, but for steps on kept features: there are a hundred times as many as the plan expects.
        """
        if pl_module.device.type == "cpu" and not is_reusing(pl_module):
            return True
        now, ranks = time.monotonic(), trainer.world_size
        may = last or (self._is_due(now) if ranks == 1 else self.budget.agreement.found["record"] == [1.0])
        if may:
            self._read_at = now
        return may

    def _is_due(self, now: float) -> bool:
        """Whether the last reading is long enough ago."""
        return now - self._read_at >= READ_SECONDS

    def _record(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a row with what the host knows, and start to read the scores from the device."""
        steps, trained, waited = self.budget.steps, self.budget.clock.counted(("train",)), self._waited(trainer)
        since_steps, since_trained, since_waited = self._since
        seconds = max(trained - since_trained, 1e-9)
        self._since = (steps, trained, waited)
        group = trainer.optimizers[0].param_groups[0]
        row = {
            "schedule/lr": float(group["lr"]),
            "schedule/momentum": momentum_of(group),
            "schedule/progress": self.budget.progress,
            "speed/images_per_second": (steps - since_steps) * self.batch_size / seconds,
            "speed/dataloader_wait_fraction": (waited - since_waited) / seconds,
            "budget/seconds_counted": self.budget.elapsed(),
            "train/epoch": self.epochs,
        }
        if self.budget.seconds is not None:
            row["budget/used"] = row["budget/seconds_counted"] / self.budget.seconds
        self._pending.append((steps, cast(ScoresTraining, pl_module).copy_train_scores(), row))

    def _log_arrived(self, wait: bool) -> None:
        """Log the rows whose values have arrived; with `wait`, all rows."""
        while self._pending and (wait or self._pending[0][1].is_ready()):
            steps, scores, row = self._pending.popleft()
            loss, accuracy = scores.read()
            self.latest = {"train/loss": loss, "train/accuracy": accuracy, **row}
            self._log(steps, self.latest)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = {name: float(trainer.callback_metrics[name]) for name in ("validate/loss", "validate/accuracy")}
        self._log(self.budget.steps, {**scores, "train/epoch": self.epochs})

    def state_dict(self) -> dict[str, Any]:
        self._log_arrived(wait=True)
        return {"rows": [[step, metrics] for step, metrics in self._rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rows = [(step, metrics) for step, metrics in state["rows"]]

    def log_again(self, loggers: list[Logger]) -> None:
        """Log the values of an earlier process again."""
        for step, metrics in self._rows:
            for logger in loggers:
                logger.log_metrics(metrics, step=step)

    def _log(self, steps: int, metrics: dict[str, float]) -> None:
        """Log values now, and keep them for a resumed run."""
        self._rows.append((steps, metrics))
        for logger in self._loggers:
            logger.log_metrics(metrics, step=steps)

    @staticmethod
    def _waited(trainer: L.Trainer) -> float:
        """Seconds that training has waited for batches."""
        return float(getattr(getattr(trainer, "datamodule", None), "wait_seconds", 0.0))
