"""The progress bar: the progress, the remaining budget, the loss, the learning rate and the speed."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fastconv.training.callbacks.recorder import Recorder

# Seconds between two changes of the bar: rich draws it ten times a second, and most steps of a small network are
# shorter.
DRAW_SECONDS = 0.1


class BudgetProgressBar(ProgressBar):
    """A rich progress bar of the run's progress. Without a terminal it prints a line at every tenth of the run.

    Args:
        recorder: the run's recorder, whose latest values are shown.
        console: shows the bar.
    """

    def __init__(self, recorder: Recorder, console: Console) -> None:
        super().__init__()
        self._recorder = recorder
        self._console = console
        self._enabled = True
        self._bar: Progress | None = None
        self._drawn_at = -math.inf
        self._lines = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._lines = int(self._recorder.budget.progress * 10)
        if self._enabled and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("training"), BarColumn(), TextColumn("{task.description}"), console=self._console
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        progress = self._recorder.budget.progress
        if self._bar is not None:
            now = time.monotonic()
            if now - self._drawn_at < DRAW_SECONDS and not trainer.should_stop:
                return
            self._drawn_at = now
            self._bar.update(self._task, completed=progress, description=self._line())
        elif progress >= (self._lines + 1) / 10:
            self._lines = int(progress * 10)
            self._console.print(f"{progress:4.0%}  {self._line()}", highlight=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, *_: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self) -> str:
        """The epoch, the seconds that are left, and the latest values of the recorder."""
        budget, latest = self._recorder.budget, self._recorder.latest
        parts = [f"epoch {self._recorder.epochs:.2f}"]
        if budget.seconds is not None:
            parts.append(f"{max(0.0, budget.seconds - budget.elapsed()):.0f} s left")
        if latest:
            parts.append(f"loss {latest['train/loss']:.3f}")
            parts.append(f"lr {latest['schedule/lr']:.4f}")
            parts.append(f"{latest['speed/images_per_second']:,.0f} images/s")
        return "  ".join(parts)
