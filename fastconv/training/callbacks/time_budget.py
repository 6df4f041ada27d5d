"""Ends a run within its budget, with the schedule at its end."""

import math
from typing import Any

import lightning as L
import torch

from fastconv.budget.clock import Clock
from fastconv.budget.next_step import Step, before_update, ends_with_another_step, next_step
from fastconv.budget.pacing import PACING, Pacing, StepTimes
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.budget.scoring_times import ScoringTimes, views_per_image
from fastconv.budget.step_clock import StepClock
from fastconv.budget.steps_ahead import StepsAhead
from fastconv.models.tta import Views
from fastconv.system.gpu import synchronize
from fastconv.training.callbacks.shared_steps import SharedSteps


class TimeBudget(SharedSteps):
    """Ends training at progress 1, which steps or time reach, whichever is first.

    Expects a Trainer with one endless epoch. Replaces Lightning's `max_time`, which ignores the schedule. Its state in
    a checkpoint has steps and progress, but not the clock, since more time may have passed after the checkpoint.

    Args:
        seconds: the budget for the `counts` segments of the clock; None for no limit.
        max_steps: optimizer steps after which the run ends; None for no limit.
        clock: the run's clock; a new one if None.
        counts: segments of the clock that count towards the budget; must contain `train`.
        step_seconds: expected seconds of a step, until a step has been measured.
        validate_images: number of images of a validation.
        reserve: time to keep for the end of the run. Each validation updates its seconds per image. On a CPU, batches
            scored from time to time do so too, and estimate how many images need all views.
        views: views of the images to score after training.
        pacing: constants of pacing.

    Raises ValueError if both `seconds` and `max_steps` are None, and for a Trainer that accumulates gradients over
    batches.
    """

    def __init__(
        self,
        seconds: float | None = None,
        max_steps: int | None = None,
        clock: Clock | None = None,
        counts: tuple[str, ...] = ("train", "validate"),
        step_seconds: float = 0.1,
        validate_images: int = 0,
        reserve: ScoringReserve | None = None,
        views: Views | None = None,
        pacing: Pacing = PACING,
    ) -> None:
        if seconds is None and max_steps is None:
            raise ValueError("a run needs seconds or max_steps")
        super().__init__(pacing)
        self.seconds, self.max_steps = seconds, max_steps
        self.clock = clock or Clock()
        self.counts = counts
        self.reserve, self._views = reserve or ScoringReserve(pacing=pacing), views or Views()
        if seconds is not None:
            self.reserve.most_optional = pacing.views_share * seconds
            self.reserve.most_margin = pacing.margin_share * seconds
        self._pacing = pacing
        self.times = StepTimes(step_seconds, pacing, 0.0 if seconds is None else pacing.slow_share * seconds)
        self.validate_images = validate_images
        self.steps = 0
        self.work = 1.0
        """Share of a whole step's work that the current step does."""
        self.worked = 0.0
        """Whole steps' worth of work that was done."""
        self.step = Step(0.0, last=False)
        self.stop_reason: str | None = None
        self._has_begun_step = False
        self._began = 0.0  # counted seconds when the first step began
        self._step_clock = StepClock(self.clock, pacing)
        self._validation_started: float | None = None
        self._scored_at: float | None = None  # expected seconds of a step when the time of scoring was measured
        self._val_batches: int | float = 1.0
        self._scoring = ScoringTimes(seconds is not None, self.reserve.images > 0, pacing)
        self._most_unmeasured = math.inf  # seconds to reserve at most before scoring was measured often enough
        self._ahead = StepsAhead(pacing.max_steps_ahead)
        self._parts = torch.empty(0)  # the latest batch of images, uint8 [parts, n, H, W, C]

    @property
    def limit(self) -> float | None:
        """Counted seconds by which training must have ended."""
        if self.seconds is None:
            return None
        reserve = min(self.reserve.seconds, math.inf if self._scoring.are_sure else self._most_unmeasured)
        return self.seconds - reserve - self._step_clock.between.slow  # other callbacks follow the last step too

    @property
    def progress(self) -> float:
        """Progress, in [0, 1], at the predicted end of the current step."""
        return self.step.progress

    def elapsed(self) -> float:
        """Seconds counted so far."""
        return self.clock.counted(self.counts)

    def seconds_left(self) -> float:
        """Seconds of the budget that are left."""
        return math.inf if self.seconds is None else self.seconds - self.elapsed()

    def is_over(self) -> bool:
        """Whether a resumed run has nothing to train: the schedule has ended, or needs no last step."""
        return self.stop_reason is not None or self._must_stop()

    def begin_step(self, trainer: L.Trainer) -> None:
        """Decide the progress of the next step. The first callback that needs it calls this."""
        if self._has_begun_step:
            return
        self._has_begun_step, self.work = True, 1.0  # callbacks that leave out work multiply it by what is left
        self._step_clock.begin()
        decided = self._agreed_next()
        # Time has run out unexpectedly (the process was stopped, or a validation took far longer than the earlier
        # ones): end with a last step.
        self.step = decided or Step(1.0, last=True)

    def decide_before_update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide the progress of the current step again before its update, which uses the learning rate at this
        progress.

        On a CPU only: elsewhere the host does not know yet how long the step takes.
        """
        if self.seconds is None or not self._has_begun_step or pl_module.device.type != "cpu":
            return
        if self._ranks > 1:
            self.step = self._agreed(trainer, pl_module).current
            return
        self._time_scoring(trainer, pl_module)
        times = self.times.with_step(self._step_clock.seconds() / self.work)
        self.reserve.spread = times.spread
        if (limit := self.limit) is not None:
            self.step = before_update(self.step, self.elapsed(), limit, times, self.reserve.spare, self._began)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.accumulate_grad_batches > 1:
            raise ValueError("every batch is a step here: accumulate gradients within training_step")
        self._val_batches = trainer.limit_val_batches
        if not self.steps:
            self._began = self.elapsed()
        self._open(trainer, pl_module)
        self.clock.enter("train")
        left = max(0.0, self.seconds_left())
        self.times.most_unmeasured = self._pacing.unmeasured_step_share * left
        if self._scoring.is_wanted and pl_module.device.type == "cpu":
            self._most_unmeasured = self._pacing.unmeasured_share * left

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if getattr(pl_module, "kept", None) is None or batch[0].dtype == torch.uint8:  # not features
            self._parts = batch[0]
        self.begin_step(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ahead.add(pl_module.device)
        self.steps += 1
        self.worked += self.work
        self.times.add(self._step_clock.end() / self.work)  # as of a whole step
        self._has_begun_step = False
        if self._scored_at is None and self.steps >= self._pacing.recent_steps:
            self._scored_at = self.times.expected
        stop, validate = self._end(trainer, pl_module)
        if stop:
            self.stop_reason = "epochs" if self.max_steps is not None and self.steps >= self.max_steps else "budget"
            trainer.should_stop = True
        # Otherwise Lightning would validate once more after the stop.
        trainer.limit_val_batches = self._val_batches if validate and not stop else 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            with self._step_clock.leaving_out():  # steps that a GPU has not finished are not of the coming step
                synchronize(pl_module.device)
            self._validation_started = self.clock.counted(("validate",))
            self.clock.enter("validate")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and self._validation_started is not None:
            synchronize(pl_module.device)
            self.clock.leave("validate")
            seconds = self.clock.counted(("validate",)) - self._validation_started
            self.reserve.update(image_seconds=seconds / max(self.validate_images, 1))
            self._scored_at = self.times.expected
            self.discard_foresight()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        synchronize(pl_module.device)
        trainer.limit_val_batches = self._val_batches
        self.clock.leave("train")

    def on_exception(self, *_: Any) -> None:
        self.clock.unwind()

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "worked": self.worked,
            "progress": self.step.progress,
            "stop_reason": self.stop_reason,
            "began": self._began,
            "step_seconds": self.times.latest(),
            "scored_at": self._scored_at,
            "scored_seconds": list(self._scoring.seconds),
            **self.reserve.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.stop_reason = state["steps"], state["stop_reason"]
        self._began = state.get("began", 0.0)  # checkpoints of earlier versions lack it
        self.worked = state.get("worked", float(self.steps))
        self._scored_at = state.get("scored_at")
        self._scoring.seconds = list(state.get("scored_seconds", []))
        self.step = Step(state["progress"], last=False)
        for seconds in state["step_seconds"]:
            self.times.add(seconds)
        names = self.reserve.state()  # checkpoints of earlier versions lack some of these
        self.reserve.update(**{name: state.get(name) for name in names})

    def _time_scoring(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure from time to time how long scoring an image takes: since the last validation the machine may have
        become slower.

        The current step's time does not include this. On a GPU, which would have to finish its steps first, nothing is
        measured.
        """
        if not self._scoring.are_due(self.progress):
            return
        images, started = self._parts[0], self.elapsed()
        with self._step_clock.leaving_out():
            modes = {part: part.training for part in pl_module.modules()}  # of a network, some may be frozen
            pl_module.eval()
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                logits = pl_module(images)
            for part, was_training in modes.items():
                part.training = was_training
        seconds = (self.elapsed() - started) / len(images)
        if not self.steps:  # the first step's time may be long for a reason of its own
            least = self._pacing.training_factor * seconds * len(images) * len(self._parts)
            self.times.estimate = max(self.times.estimate, least)
        # The ranks will share the images to score.
        if not self._scoring.add(seconds / self._ranks, self.progress, self.reserve.image_seconds):
            return
        self.reserve.update(
            image_seconds=self._scoring.slowest,
            # If the budget does not count the test, all views are scored without a time limit.
            view_seconds=self._scoring.usual if "test" in self.counts else None,
            views=views_per_image(self._views, logits, self._pacing),
        )
        if not self._scoring.are_sure and self.reserve.seconds > self._most_unmeasured:
            self._scoring.repeat(self.progress)

    def _next(self) -> Step | None:
        elapsed = self.elapsed() + self._ahead.count * self.times.expected
        reached, spare = self.step.progress, 0.0 if self.seconds is None else self.reserve.spare
        return next_step(self.steps, self.max_steps, elapsed, self.limit, self.times, reached, spare, self._began)

    def _must_stop(self) -> bool:
        """Whether no further step follows: the schedule has ended, or has nearly ended without time for another step.

        If the time is over in the middle of the schedule, since the process was stopped, one last step ends the
        schedule.
        """
        if self.step.last or (self.max_steps is not None and self.steps >= self.max_steps):
            return True
        if self.seconds is None or self._next() is not None or (limit := self.limit) is None:
            return False
        reached, elapsed, spare = self.step.progress, self.elapsed(), self.reserve.spare  # views can be left out
        return not ends_with_another_step(reached, elapsed, limit, spare, self.times, self._began)

    def _validation_fits(self, before: float = 0.0) -> bool:
        """Whether there is time for a slow validation, which begins in `before` seconds, and two steps after it.

        If steps have become slower since the last one, so has scoring.
        """
        pacing = self._pacing
        factor = pacing.sudden_factor if self._validation_started is None else pacing.slow_validation_factor
        if self._scored_at:
            factor = max(factor, self.times.slow / self._scored_at)
        return "validate" not in self.counts or self.has_time_for(
            before + factor * self.validate_images * self.reserve.image_seconds
        )

    def has_time_to_save(self) -> bool:
        """Whether there is time for another checkpoint before the last one."""
        return "checkpoint" not in self.counts or self.has_time_for(
            self._pacing.reserve_factor * self.reserve.save_seconds
        )

    def has_time_for(self, seconds: float) -> bool:
        """Whether two slow steps fit after something that takes this many counted seconds."""
        limit = self.limit
        return limit is None or self.elapsed() + seconds + 2 * self.times.slow < limit
