"""The learning-rate range test: the loss under a growing learning rate (Smith 2017, arXiv 1506.01186, 3.3).

Lightning's Trainer runs it, and a callback sets the learning rate. Lightning's own `Tuner.lr_find` (2.6) is not used,
for three reasons. It takes the loss of a batch's last part, divided by the number of parts, as the loss of the batch.
Its smoothing halves the first loss and lags some fifty steps behind. It finds the steepest slope per learning rate
instead of per decade, which favours small values: 0.025 for a narrow DavidNet on digits, which trains equally well with
peaks from 0.1 to 3.2.
"""

import csv
import dataclasses
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.ndimage import gaussian_filter1d

from fastconv.analysis import run_figures
from fastconv.config.commands import LrFind, RangeTest
from fastconv.config.run_settings import settings_as_yaml
from fastconv.optim.momentum import set_momentum
from fastconv.system import signals
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable
from fastconv.system.wording import counted
from fastconv.training.callbacks.recorder import ScoresTraining
from fastconv.training.datamodule import ShardDataModule
from fastconv.training.plan import Run
from fastconv.training.run_stream import open_stream
from fastconv.training.trainer import make_module, make_trainer, silence_lightning

# Number of recent steps whose mean loss may end a test: a single batch may be an outlier.
RECENT_STEPS = 5
# Fewest losses from which to make a suggestion.
MIN_LOSSES = 10
# Standard deviation of the smoothing, as a share of the planned steps: a tenth of a decade by default.
SMOOTHING = 0.02
# Losses are clipped at this multiple of the first one. Otherwise, smoothing would spread huge values to their
# neighbours.
MAX_LOSS_RATIO = 2.0
# The fall that counts as learning, as a share of the first loss; and the rise that ends a fall, as a share of the
# loss's total fall.
MIN_FALL, END_RISE = 0.05, 0.1


@dataclass(frozen=True)
class LossCurve:
    """Mean losses of whole batches, each from before the step with its learning rate. Both float64 [steps], finite."""

    learning_rates: np.ndarray
    losses: np.ndarray
    sigma: float
    """Standard deviation of the smoothing, in steps."""
    exploded_at: float | None = None
    """Learning rate of the step whose loss stopped the test early; None if it ran to its end."""

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The losses smoothed by a Gaussian window, which has no lag, unlike a running mean: float64 [steps]."""
        return gaussian_filter1d(np.minimum(self.losses, MAX_LOSS_RATIO * self.losses[0]), self.sigma, mode="nearest")

    @cached_property
    def last_fall(self) -> int:
        """The step with the lowest smoothed loss before the loss first rises by a tenth of its total fall."""
        lowest = np.minimum.accumulate(self.smoothed)
        rises = np.flatnonzero(self.smoothed - lowest > END_RISE * (self.smoothed[0] - lowest[-1]))
        return int(np.argmin(self.smoothed[: rises[0] if len(rises) else None]))

    @cached_property
    def steepest(self) -> int:
        """The step, not after `last_fall`, at which the smoothed loss falls fastest per decade of the learning rate."""
        return int(np.argmin(np.gradient(self.smoothed)[: self.last_fall + 1]))

    @property
    def suggestion(self) -> float:
        """The learning rate at `last_fall`, which is Smith's upper bound for a cycle."""
        return float(self.learning_rates[self.last_fall])


class LRRangeTest(L.Callback):
    """Multiplies the learning rate by the same factor after each step, and ends training after the last one.

    Args:
        test: the range of learning rates, and the threshold of the early stop.
        momentum: momentum of all steps; None to keep the optimizer's own.
        on_step: called with the number of steps done.
    """

    def __init__(
        self, test: RangeTest, momentum: float | None = None, on_step: Callable[[int], None] = lambda steps: None
    ) -> None:
        self._planned = np.geomspace(test.min_lr, test.max_lr, test.steps)
        self._threshold = test.early_stop_threshold
        self._momentum, self._on_step = momentum, on_step
        self._losses: list[float] = []
        self._lowest = math.inf
        self._exploded = False

    @property
    def curve(self) -> LossCurve:
        """The losses so far."""
        count = len(self._losses)
        exploded_at = float(self._planned[count - 1]) if self._exploded else None
        finite = np.isfinite(self._losses)  # only the last may not be
        return LossCurve(
            self._planned[:count][finite], np.array(self._losses)[finite], SMOOTHING * len(self._planned), exploded_at
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        groups = trainer.optimizers[0].param_groups
        scale = float(self._planned[len(self._losses)]) / groups[0].get("max_lr", 1.0)
        for group in groups:  # all peaks keep their ratio to the first group's, which is optimizer.max_lr
            group["lr"] = scale * group.get("max_lr", 1.0)
            if self._momentum is not None:
                set_momentum(group, self._momentum)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(cast(ScoresTraining, pl_module).take_train_scores()[0])
        recent = sum(self._losses[-RECENT_STEPS:]) / len(self._losses[-RECENT_STEPS:])
        self._lowest = min(self._lowest, recent)
        too_high = self._threshold is not None and recent > self._threshold * self._lowest
        self._exploded = too_high or not math.isfinite(recent)
        trainer.should_stop = self._exploded or len(self._losses) == len(self._planned)
        self._on_step(len(self._losses))


def run_range_test(run: Run, test: RangeTest, console: Console) -> LossCurve:
    """Run a range test with the network of a run, at the momentum that its schedule has at the peak.

    It does not validate or score the test split, and discards the network. It does not compile, which would not pay
    off within a hundred steps. Raises Interrupted after a signal.
    """
    config = run.config
    silence_lightning()
    module = make_module(run)
    peak = max((config.schedule.factors(share / 1000) for share in range(1001)), key=lambda factors: factors.lr)
    columns = (TextColumn("range test"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with (
        closing(open_stream(run)) as stream,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("", total=test.steps)
        callback = LRRangeTest(test, peak.momentum, lambda steps: progress.update(task, completed=steps))
        datamodule = ShardDataModule(stream, config.batch_size, config.micro_batch_size, None, None, run.test)
        trainer = make_trainer(run, [], [callback])
        with run.clock.segment("train"):
            trainer.fit(module, datamodule=datamodule)
    return callback.curve


def conclusions(curve: LossCurve, test: RangeTest) -> list[str]:
    """Describe a curve in lines for the terminal. Raises InputError if it does not suggest a learning rate."""
    if len(curve.losses) < MIN_LOSSES:
        raise InputError(
            f"the loss exploded at learning rate {curve.exploded_at:.2g} already, after"
            f" {counted(len(curve.losses), 'loss')}: too few for a suggestion. Lower range_test.min_lr"
        )
    first, best = curve.smoothed[0], curve.smoothed[curve.last_fall]
    if first - best < MIN_FALL * first:
        raise InputError(
            f"the loss never falls, from {first:.3g} to {best:.3g} at most, so there is no suggestion. Try another"
            " range_test.min_lr or range_test.max_lr, or more range_test.steps"
        )
    steepest = curve.learning_rates[curve.steepest]
    if curve.last_fall == len(curve.losses) - 1 and curve.exploded_at is None:
        rise = "is lowest at the end: a larger range_test.max_lr may suggest more"
    else:
        rise = f"rises after {curve.suggestion:.2g}"
    exploded = curve.exploded_at
    end = f"does not explode up to {test.max_lr:g}" if exploded is None else f"explodes at {exploded:.2g}"
    return [
        f"the loss falls fastest at {steepest:.2g}, {rise}, and {end}",
        f"a hint for the peak: optimizer.max_lr={curve.suggestion:.2g}",
    ]


def write_range_test(curve: LossCurve, config: LrFind, folder: Path) -> None:
    """Write `lr_find.csv`, `lr_find.png` and the config, `lr_find.yaml`. Raises InputError if that fails."""
    try:
        with (folder / "lr_find.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["learning_rate", "loss", "smoothed_loss"])
            rows.writerows(zip(curve.learning_rates, curve.losses, curve.smoothed, strict=True))
        (folder / "lr_find.yaml").write_text(settings_as_yaml(dataclasses.asdict(config)), "utf-8")
        marks = {"suggestion": curve.suggestion}
        if (now := getattr(config.optimizer, "max_lr", None)) is not None:  # a user's own optimizer may have none
            marks["optimizer.max_lr now"] = now
        run_figures.draw_range_test(
            curve.learning_rates, curve.losses, curve.smoothed, marks, config.dataset.name, folder / "lr_find.png"
        )
    except OSError as error:
        raise unwritable(folder, error) from error
