"""Ends a run within its budget, with the schedule at its end."""

import math
from collections import deque
from statistics import median
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from fastconv.budget.clock import Clock
from fastconv.budget.pacing import PACING, Pacing, Step, StepTimes, ends_with_another_step, next_step
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.models.tta import Views

T = TypeVar("T")


class TimeBudget(L.Callback):
    """Ends training at progress 1, which steps or time reach, whichever comes first.

    Expects a Trainer with one endless epoch. Replaces Lightning's `max_time`, which ignores the schedule. Its state in
    a checkpoint holds steps and progress, but not the clock, since more time may have passed after the checkpoint.

    Args:
        seconds: the budget for the `counts` segments of the clock; None for no limit.
        max_steps: optimizer steps after which the run ends; None for no limit.
        clock: the run's clock; a new one if None.
        counts: segments of the clock that count towards the budget; must contain `train`.
        step_seconds: expected seconds of a step, until one has been measured.
        validate_images: number of images of a validation.
        reserve: time to reserve for the end of the run. Each validation updates its seconds per image. Without
            validations, on a CPU, a batch scored at some progress does, and also estimates how many images need all
            views.
        views: views of the images to score after training.
        pacing: constants of pacing.

    Raises ValueError if both `seconds` and `max_steps` are None.
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
        self.seconds, self.max_steps = seconds, max_steps
        self.clock = clock or Clock()
        self.counts = counts
        self.reserve, self._views = reserve or ScoringReserve(pacing=pacing), views or Views()
        if seconds is not None:
            self.reserve.most_optional = pacing.views_share * seconds
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
        self._begun = False
        self._began = 0.0
        self._step_ended: float | None = None
        self._between = StepTimes(0.0, pacing)
        self._validation_started: float | None = None
        self._val_batches: int | float = 1.0
        self._score_at = list(pacing.score_at) if seconds is not None and self.reserve.images else []
        self._scored: list[float] = []
        self._most_unmeasured = math.inf
        self._doubtful: float | None = None
        self._events: deque[torch.cuda.Event] = deque()

    @property
    def limit(self) -> float | None:
        """Counted seconds by which training must have ended."""
        if self.seconds is None:
            return None
        reserve = min(self.reserve.seconds, math.inf if self._is_measured else self._most_unmeasured)
        return self.seconds - reserve - self._between.slow  # other callbacks follow the last step too

    @property
    def _is_measured(self) -> bool:
        """Whether enough batches were scored to believe that scoring takes as long as they did."""
        return len(self._scored) >= self._pacing.sure_measurements

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
        """Whether training has ended or has no time for another step."""
        return self.stop_reason is not None or self._next() is None

    def begin_step(self, trainer: L.Trainer) -> None:
        """Decide the progress of the next step. The first callback that needs it calls this."""
        if self._begun:
            return
        self._begun, self.work = True, 1.0  # callbacks that leave out work multiply it by what is left
        trained = self.clock.counted(("train",))
        if self._step_ended is None:
            self._step_ended = trained
        else:
            self._between.add(trained - self._step_ended)
        decided = self._agree(trainer, self._next())
        # Time has run out unexpectedly (the process was stopped, or a validation took far longer than the earlier
        # ones): end with a last step.
        self.step = decided or Step(1.0, last=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val_batches = trainer.limit_val_batches
        if not self.steps:
            self._began = self._agree(trainer, self.elapsed())
        self.clock.enter("train")
        left = max(0.0, self.seconds_left())
        self.times.estimate = min(self.times.estimate, self._pacing.unmeasured_step_share * left)
        if self._score_at and pl_module.device.type == "cpu":
            self._most_unmeasured = self._pacing.unmeasured_share * left

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.begin_step(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._wait_for_device(pl_module.device)
        self.steps += 1
        self.worked += self.work
        # With what other callbacks did after the step before, and with the wait for the batch; as of a whole step.
        self.times.add((self.clock.counted(("train",)) - (self._step_ended or 0.0)) / self.work)
        if pl_module.device.type == "cpu":  # on a GPU the host's first steps only start work
            self.reserve.spread = self.times.spread
        self._begun = False
        self._time_scoring(trainer, pl_module, batch[0])
        self._step_ended = self.clock.counted(("train",))
        stop, validate = self._agree(trainer, (self._must_stop(), self._validation_fits()))
        if stop:
            self.stop_reason = "epochs" if self.max_steps is not None and self.steps >= self.max_steps else "budget"
            trainer.should_stop = True
        # Otherwise Lightning would validate once more after the stop.
        trainer.limit_val_batches = self._val_batches if validate and not stop else 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validation_started = self.clock.counted(("validate",))
            self.clock.enter("validate")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and self._validation_started is not None:
            self.clock.leave("validate")
            seconds = self.clock.counted(("validate",)) - self._validation_started
            self.reserve.update(image_seconds=seconds / max(self.validate_images, 1))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
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
            **self.reserve.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.stop_reason = state["steps"], state["stop_reason"]
        self._began = state.get("began", 0.0)  # checkpoints of earlier versions lack it
        self.worked = state.get("worked", float(self.steps))
        self.step = Step(state["progress"], last=False)
        self.times = StepTimes(self.times.estimate, self._pacing, self.times.allowance)
        for seconds in state["step_seconds"]:
            self.times.add(seconds)
        names = self.reserve.state()  # checkpoints of earlier versions lack some of these
        self.reserve.update(**{name: state.get(name) for name in names})

    def _time_scoring(self, trainer: L.Trainer, pl_module: L.LightningModule, images: Tensor) -> None:
        """If there are no validations, measure the time of scoring an image, at the progress that `score_at` gives."""
        if not self._score_at or self.progress < self._score_at[0]:
            return
        self._score_at = [progress for progress in self._score_at if progress > self.progress]
        # A GPU would have to finish its steps first, so this is for CPUs only.
        if self._validation_started is not None or pl_module.device.type != "cpu":
            return
        pl_module.eval()
        started = self.elapsed()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            logits = pl_module(images)
        seconds = (self.elapsed() - started) / len(images)
        pl_module.train()
        # A time far longer than usual is measured again after the next step, if there is one: a first call sets things
        # up, and the machine may have paused.
        usual = median(self._scored or [self.reserve.image_seconds])
        if seconds > self._pacing.doubtful_factor * usual and self._doubtful is None and self._score_at:
            self._doubtful = seconds
            self._score_at.insert(0, self.progress)
            return
        self._scored.append(seconds if self._doubtful is None else min(seconds, self._doubtful))
        self._doubtful = None
        self.reserve.update(
            # Of many measurements, one outlier does not count, unless it is the latest: the machine may be slow now.
            image_seconds=max(self._scored[-1], sorted(self._scored)[-2 if self._is_measured else -1]),
            # If the budget does not count the test, all views are scored without a time limit.
            view_seconds=median(self._scored) if "test" in self.counts else None,
            views=self._views_per_image(logits),
        )
        if not self._is_measured and self.reserve.seconds > self._most_unmeasured:
            self._score_at.insert(0, self.progress)

    def _views_per_image(self, logits: Tensor) -> float | None:
        """Mean number of views per image, from the share of uncertain training images; None if all get all views."""
        if self._views.confidence_threshold >= 1:
            return None
        uncertain = self._pacing.unseen_factor * float(self._views.uncertain(logits).float().mean())
        return self._views.scored(min(1.0, max(uncertain, self._pacing.min_uncertain)))

    def _next(self) -> Step | None:
        elapsed = self.elapsed() + self._steps_ahead() * self.times.expected
        reached, spare = self.step.progress, self.reserve.spare
        return next_step(self.steps, self.max_steps, elapsed, self.limit, self.times, reached, spare, self._began)

    def _must_stop(self) -> bool:
        """Whether no further step follows: the schedule has ended, or nearly so and there is no time for another step.

        If the time was spent otherwise, in the middle of the schedule, one last step ends it.
        """
        if self.step.last or (self.max_steps is not None and self.steps >= self.max_steps):
            return True
        if self.limit is None or self._next() is not None:
            return False
        reached, elapsed, spare = self.step.progress, self.elapsed(), self.reserve.spare  # views can be left out
        return not ends_with_another_step(reached, elapsed, self.limit, spare, self.times, self._began)

    def _steps_ahead(self) -> int:
        """Number of steps that were started but that the device has not finished."""
        return sum(not event.query() for event in self._events)

    def _validation_fits(self) -> bool:
        """Whether there is time for a slow validation and two steps after it."""
        pacing, times = self._pacing, self.times
        factor = pacing.sudden_factor
        if self._validation_started is not None:
            factor = max(pacing.slow_validation_factor, times.slow / times.expected)
        return "validate" not in self.counts or self.has_time_for(
            factor * self.validate_images * self.reserve.image_seconds
        )

    def has_time_to_save(self) -> bool:
        """Whether there is time for another checkpoint before the last one."""
        return "checkpoint" not in self.counts or self.has_time_for(
            self._pacing.reserve_factor * self.reserve.save_seconds
        )

    def has_time_for(self, seconds: float) -> bool:
        """Whether two slow steps fit after something that takes so many counted seconds."""
        return self.limit is None or self.elapsed() + seconds + 2 * self.times.slow < self.limit

    def _agree(self, trainer: L.Trainer, decision: T) -> T:
        """The first rank's decision. Clocks differ between ranks, but all must stop at the same step."""
        if trainer.world_size == 1:
            return decision
        return trainer.strategy.broadcast(decision)

    def _wait_for_device(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > self._pacing.max_steps_ahead:
            self._events.popleft().synchronize()
