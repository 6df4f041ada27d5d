"""The budget as a contract: ends the run inside it, with the schedule at its end."""

from collections import deque
from statistics import median
from typing import Any

import lightning as L
import torch

from fastconv.budget.clock import Clock
from fastconv.budget.pacing import Reserve, Step, StepTimes, next_step
from fastconv.models.tta import Views

# How many steps the host may be ahead of a GPU: enough to keep it busy, few enough for the clock to be true.
MAX_STEPS_AHEAD = 8
# Progress at which a CPU scores a batch, as what the benchmark knew may be out of date; the slowest of these counts, and
# for views that can be left out the median. Often, as a shared machine may be three times slower at the end than it was
# a minute before.
SCORED_AT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
# A look that takes so many times as long as the median of those before is not believed by itself.
UNLIKELY = 1.5
# Of images that the network did not learn from so many times as many are uncertain, and at least such a share: it may
# know by heart those that it learned from.
UNSEEN_FACTOR, LEAST_UNCERTAIN = 1.25, 0.25


class TimeBudget(L.Callback):
    """Ends training at progress 1, which is reached by steps or by time, whichever comes first.

    Expects a Trainer with one endless epoch; replaces Lightning's `max_time`, which knows nothing of a schedule. Its
    state in a checkpoint holds steps and progress, not the clock: more time may have passed since.

    Args:
        seconds: the budget for the `counts` segments of the clock; None for no limit.
        max_steps: optimizer steps after which the run ends; None for no bound.
        clock: the run's clock; a new one if None.
        counts: segments that the budget limits; must contain `train`.
        step_seconds: what a step is expected to take before one was measured.
        validate_images: images of a validation.
        reserve: what will still be needed after training; takes the speed of scoring from each validation, or, on a CPU
            without one, from a batch now and then, and from that how many images will need all views.
        views: in which the images are scored.
    """

    def __init__(
        self,
        seconds: float | None = None,
        max_steps: int | None = None,
        clock: Clock | None = None,
        counts: tuple[str, ...] = ("train", "validate"),
        step_seconds: float = 0.1,
        validate_images: int = 0,
        reserve: Reserve | None = None,
        views: Views | None = None,
    ) -> None:
        if seconds is None and max_steps is None:
            raise ValueError("a run needs seconds or max_steps")
        self.seconds, self.max_steps = seconds, max_steps
        self.clock = clock or Clock()
        self.counts = counts
        self.reserve, self._views = reserve or Reserve(), views or Views()
        self.times = StepTimes(step_seconds)
        self.validate_images = validate_images
        self.steps = 0
        self.step = Step(0.0, last=False)
        self.stop_reason: str | None = None
        self._begun = False
        self._step_started = 0.0
        self._validation_started: float | None = None
        self._score_at = list(SCORED_AT) if seconds is not None and self.reserve.images else []
        self._scored: list[float] = []
        self._doubted: float | None = None
        self._events: deque[torch.cuda.Event] = deque()

    @property
    def limit(self) -> float | None:
        """Counted seconds at which training must have ended."""
        return None if self.seconds is None else self.seconds - self.reserve.seconds

    @property
    def progress(self) -> float:
        """Progress, in [0, 1], at the predicted end of the current step."""
        return self.step.progress

    def elapsed(self) -> float:
        """Seconds counted so far."""
        return self.clock.counted(self.counts)

    def is_over(self) -> bool:
        """Whether training has ended, or has no time left for another step."""
        return self.stop_reason is not None or self._next() is None

    def begin_step(self, trainer: L.Trainer) -> None:
        """Settle the progress of the coming step; called by whichever callback needs it first."""
        if self._begun:
            return
        self._begun = True
        self._step_started = self.clock.counted(("train",))
        decided = self._agree(trainer, self._next())
        # Time has run out unexpectedly (a validation took far longer than those before): end with a last step.
        self.step = decided or Step(1.0, last=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val_batches = trainer.limit_val_batches
        self.clock.enter("train")

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.begin_step(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._wait_for_device(pl_module.device)
        self.steps += 1
        self.times.add(self.clock.counted(("train",)) - self._step_started)
        self._begun = False
        self._score(trainer, pl_module, batch[0])
        stop, validate = self._agree(trainer, (self.step.last or self._next() is None, self._validation_fits()))
        if stop:
            self.stop_reason = "epochs" if self.max_steps is not None and self.steps >= self.max_steps else "budget"
            trainer.should_stop = True
        # Lightning would validate once more after the stop.
        trainer.limit_val_batches = self._val_batches if validate and not stop else 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validation_started = self.clock.counted(("validate",))
            self.clock.enter("validate")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.clock.leave("validate")
            seconds = self.clock.counted(("validate",)) - self._validation_started
            self.reserve.image_seconds = seconds / max(self.validate_images, 1)

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
            "progress": self.step.progress,
            "stop_reason": self.stop_reason,
            "step_seconds": self.times.latest(),
            "image_seconds": self.reserve.image_seconds,
            "views": self.reserve.views,
            "view_seconds": self.reserve.view_seconds,
            "save_seconds": self.reserve.save_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.stop_reason = state["steps"], state["stop_reason"]
        self.step = Step(state["progress"], last=False)
        self.times = StepTimes(self.times.estimate)
        for seconds in state["step_seconds"]:
            self.times.add(seconds)
        self.reserve.image_seconds, self.reserve.save_seconds = state["image_seconds"], state["save_seconds"]
        self.reserve.views = state.get("views", self.reserve.views)
        self.reserve.view_seconds = state.get("view_seconds")

    def _score(self, trainer: L.Trainer, pl_module: L.LightningModule, images: torch.Tensor) -> None:
        """Measure what scoring an image takes, if it is time to and no validation says so."""
        if not self._score_at or self.progress < self._score_at[0]:
            return
        self._score_at = [at for at in self._score_at if at > self.progress]
        # A GPU would have to finish its steps first.
        if self._validation_started is not None or pl_module.device.type != "cpu":
            return
        pl_module.eval()
        started = self.elapsed()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            logits = pl_module(images)
        seconds = (self.elapsed() - started) / len(images)
        pl_module.train()
        # What takes far longer than usual is looked at again after the next step, unless there may be none: the first
        # time sets things up, or the machine paused.
        is_unlikely = seconds > UNLIKELY * median(self._scored or [self.reserve.image_seconds])
        if is_unlikely and self._doubted is None and self._score_at:
            self._doubted = seconds
            self._score_at.insert(0, self.progress)
            return
        self._scored.append(seconds if self._doubted is None else min(seconds, self._doubted))
        self._doubted = None
        self.reserve.image_seconds = max(self._scored)
        if "test" in self.counts:  # else they are scored however long it takes
            self.reserve.view_seconds = median(self._scored)
        if self._views.below < 1:
            uncertain = float(self._views.uncertain(logits).float().mean())
            self.reserve.views = self._views.scored(min(1.0, max(UNSEEN_FACTOR * uncertain, LEAST_UNCERTAIN)))

    def _next(self) -> Step | None:
        elapsed = self.elapsed() + self._steps_ahead() * self.times.expected
        return next_step(self.steps, self.max_steps, elapsed, self.limit, self.times, self.step.progress)

    def _steps_ahead(self) -> int:
        """Steps that were begun, and that the device has still to do."""
        return sum(not event.query() for event in self._events)

    def _validation_fits(self) -> bool:
        """Whether there is time for a validation, a slow one, and two steps after it."""
        if self.limit is None or "validate" not in self.counts:
            return True
        validation = self.validate_images * self.reserve.image_seconds
        return self.elapsed() + 1.5 * validation + 2 * self.times.slow < self.limit

    def _agree(self, trainer: L.Trainer, decision: Any) -> Any:
        """The first rank's decision: clocks differ, but all ranks must stop at the same step."""
        return trainer.strategy.broadcast(decision) if trainer.world_size > 1 else decision

    def _wait_for_device(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > MAX_STEPS_AHEAD:
            self._events.popleft().synchronize()
