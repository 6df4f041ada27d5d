"""The learning-rate range test: the loss under a growing learning rate (Smith 2017, arXiv 1506.01186, 3.3).

Lightning's Trainer runs it, and a callback sets the learning rate. Lightning's own `Tuner.lr_find` (2.6) is not used:
it takes the loss of a batch's last part, divided by the number of parts, for that of the batch; its smoothing halves
the first loss and lags some fifty steps behind; and it looks for the steepest slope per learning rate instead of per
decade, which favours small ones: 0.025 for a narrow DavidNet on digits, which trains alike with peaks from 0.1 to 3.2.
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
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.ndimage import gaussian_filter1d

from fastconv.analysis import run_figures
from fastconv.config.commands import LrFind, RangeTest
from fastconv.optim.momentum import set_momentum
from fastconv.system import signals as interrupts
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable
from fastconv.training.callbacks.recorder import ScoresTraining
from fastconv.training.datamodule import ShardDataModule
from fastconv.training.plan import Run, open_stream
from fastconv.training.trainer import make_module, make_trainer, silence_lightning

# Steps whose mean loss may end a test: a single batch may be unlucky.
RECENT = 5
# Losses that a suggestion takes, at least.
FEWEST = 10
# Standard deviation of the smoothing, as a share of the planned steps: a tenth of a decade by default.
SMOOTHING = 0.02
# Losses are bounded at this multiple of the first one: unbounded they would smear over their neighbours.
WORST = 2.0
# What counts as learning, as a share of the first loss, and as a rise, as a share of what the loss falls in all.
FALL, RISE = 0.05, 0.1


@dataclass(frozen=True)
class LossCurve:
    """Mean losses of whole batches, each before the step with its learning rate: float64 [steps] both, and finite."""

    learning_rates: np.ndarray
    losses: np.ndarray
    sigma: float
    """Standard deviation, in steps, of the smoothing."""
    exploded_at: float | None = None
    """Learning rate of the step whose loss ended the test; None if it went on to its end."""

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The losses under a Gaussian window, which unlike a running mean lags behind nothing: float64 [steps]."""
        return gaussian_filter1d(np.minimum(self.losses, WORST * self.losses[0]), self.sigma, mode="nearest")

    @cached_property
    def last_fall(self) -> int:
        """The step with the lowest smoothed loss before it first rises by a tenth of what it falls in all."""
        lowest = np.minimum.accumulate(self.smoothed)
        rises = np.flatnonzero(self.smoothed - lowest > RISE * (self.smoothed[0] - lowest[-1]))
        return int(np.argmin(self.smoothed[: rises[0] if len(rises) else None]))

    @cached_property
    def steepest(self) -> int:
        """The step up to `last_fall` at which the smoothed loss falls fastest per decade of the learning rate."""
        return int(np.argmin(np.gradient(self.smoothed)[: self.last_fall + 1]))

    @property
    def suggestion(self) -> float:
        """The learning rate at `last_fall`: where Smith puts the upper bound of a cycle."""
        return float(self.learning_rates[self.last_fall])


class LRRangeTest(L.Callback):
    """Multiplies the learning rate by the same factor after each step, and ends training after the last one.

    Args:
        test: the range, and when to end early.
        momentum: momentum of all steps; None for the optimizer's own.
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
        finite = np.isfinite(self._losses)  # all but perhaps the last
        return LossCurve(
            self._planned[:count][finite], np.array(self._losses)[finite], SMOOTHING * len(self._planned), exploded_at
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        interrupts.listen()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        groups = trainer.optimizers[0].param_groups
        scale = float(self._planned[len(self._losses)]) / groups[0].get("max_lr", 1.0)
        for group in groups:  # the peaks of other groups keep their ratio to the first one's, which is optimizer.max_lr
            group["lr"] = scale * group.get("max_lr", 1.0)
            if self._momentum is not None:
                set_momentum(group, self._momentum)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._losses.append(cast(ScoresTraining, pl_module).take_train_scores()[0])
        recent = sum(self._losses[-RECENT:]) / len(self._losses[-RECENT:])
        self._lowest = min(self._lowest, recent)
        too_high = self._threshold is not None and recent > self._threshold * self._lowest
        self._exploded = too_high or not math.isfinite(recent)
        trainer.should_stop = self._exploded or len(self._losses) == len(self._planned)
        self._on_step(len(self._losses))


def run_range_test(run: Run, test: RangeTest, console: Console) -> LossCurve:
    """Train the network of a run for as long as the test goes, at the momentum that its schedule has at the peak.

    Neither validates nor scores the test split, and keeps nothing of the network. Does not compile: a hundred steps
    would not pay for it. Raises Interrupted for a signal.
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
    """Describe a curve in lines for the terminal. Raises InputError for one that suggests nothing."""
    if len(curve.losses) < FEWEST:
        raise InputError(
            f"the loss exploded at learning rate {curve.exploded_at:.2g} already: {len(curve.losses)} losses are too"
            " few for a suggestion. Lower range_test.min_lr"
        )
    first, best = curve.smoothed[0], curve.smoothed[curve.last_fall]
    if first - best < FALL * first:
        raise InputError(
            f"the loss never falls, from {first:.3g} to {best:.3g} at most, so that it suggests nothing. Try another"
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
    """Write `lr_find.csv`, `lr_find.png` and `lr_find.yaml`, the config. Raises InputError if it can't."""
    try:
        with (folder / "lr_find.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["learning_rate", "loss", "smoothed_loss"])
            rows.writerows(zip(curve.learning_rates, curve.losses, curve.smoothed, strict=True))
        (folder / "lr_find.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
        marks = {"suggestion": curve.suggestion}
        if (now := getattr(config.optimizer, "max_lr", None)) is not None:  # a user's own may have none
            marks["optimizer.max_lr now"] = now
        run_figures.draw_range_test(
            curve.learning_rates, curve.losses, curve.smoothed, marks, config.dataset.name, folder / "lr_find.png"
        )
    except OSError as error:
        raise unwritable(folder, error) from error
