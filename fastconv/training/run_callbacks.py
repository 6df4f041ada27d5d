"""The callbacks of a run, in the order in which the Trainer calls them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import lightning as L
from rich.console import Console

from fastconv.budget.compiled import compiled_file
from fastconv.budget.pacing import PACING
from fastconv.config.search import running_trial
from fastconv.data.features import KeptFeatures
from fastconv.models.tta import views_of
from fastconv.optim.averaging import AVERAGES
from fastconv.runs.folder import CHECKPOINT
from fastconv.training.callbacks import (
    AverageWeights,
    BudgetProgressBar,
    CaptureStep,
    Checkpoints,
    CompareRanks,
    CompileStep,
    FiniteLoss,
    PruneTrial,
    Recorder,
    ResizeImages,
    ReuseFeatures,
    ScheduleLR,
    ShareSteps,
    TimeBudget,
    TuneConvolutions,
    WatchSpeed,
)
from fastconv.training.callbacks.recorder import RECORDS
from fastconv.training.final_scores import limits_scoring
from fastconv.training.plan import Run


class RunCallbacks:
    """The callbacks of a planned run: `all` for the Trainer, and by name those that are asked later.

    Args:
        folder: of the run.
        note: writes the progress of the run; called every second while it trains.
    """

    def __init__(self, run: Run, console: Console, folder: Path, note: Callable[[], None]) -> None:
        config, plan, share = run.config, run.plan, run.feature_share
        self.budget = budget = _time_budget(run)
        self.recorder = Recorder(budget, run.spec.samples, config.batch_size, max(1, plan.steps // RECORDS))
        path = folder / CHECKPOINT if config.checkpoint.save else None
        self.checkpoints = Checkpoints(path, config.checkpoint.every, budget, note)
        self.average: AverageWeights | None = None
        if config.average.kind != "none":
            average = AVERAGES[config.average.kind](config.average.update_interval, config.average.decay)
            self.average = AverageWeights(average, budget)
        self.watch = WatchSpeed(budget, run.speed, run.device.threads, run.may_adjust_threads)
        self.kept = KeptFeatures(config.stream.seed) if share else None
        """The features of a frozen network on which its head is trained again, if it is."""
        trial = running_trial()
        self.prune = PruneTrial(trial, budget, config.objective) if trial else None
        self.all: list[L.Callback] = [
            budget,
            *([ShareSteps(budget), CompareRanks(run)] if config.trainer.world > 1 else []),
            self.watch,
            ScheduleLR(config.schedule),
            *([ReuseFeatures(budget, self.kept, share, self.recorder)] if self.kept and share else []),
            *([ResizeImages(budget, run.resizing)] if run.resizing.until else []),
            *([self.average] if self.average else []),
            self.recorder,
            BudgetProgressBar(self.recorder, console),
            FiniteLoss(budget, self.recorder),
            *run.callbacks,
            *([self.prune] if self.prune else []),
            self.checkpoints,  # last, so that a checkpoint includes the effects of all other callbacks
        ]
        if run.device.compile:
            compiled = compiled_file(config, run.spec.shape, len(run.spec.classes), run.device)
            self.all.append(CompileStep(run.clock, (config.micro_batch_size, *run.spec.shape), compiled))
        on_gpu = run.device.kind == "cuda"
        self.capture = CaptureStep(run.clock) if run.graph else None
        self.all += [*([self.capture] if self.capture else []), *([TuneConvolutions()] if on_gpu else [])]


def _time_budget(run: Run) -> TimeBudget:
    """The budget of a run, with what is kept of it for scoring."""
    config, plan = run.config, run.plan
    return TimeBudget(
        seconds=config.budget.seconds,
        max_steps=plan.max_steps,
        clock=run.clock,
        counts=tuple(config.budget.counts),
        step_seconds=plan.step_seconds,
        validate_images=run.validate_images,
        reserve=dataclasses.replace(
            plan.reserve,
            view_seconds=plan.reserve.image_seconds if limits_scoring(run) else None,
            finish_seconds=PACING.finish_seconds if "setup" in config.budget.counts else 0.0,
        ),
        views=views_of(config.tta, config.augment.mirrors),
    )
