"""The budget as a contract: ends the run inside it, with the schedule at its end."""

from collections import deque
from typing import Any

import lightning as L
import torch

from fastconv.clock import Clock
from fastconv.pace import Step, StepTimes, next_step

# How many steps the host may be ahead of a GPU: enough to keep it busy, few enough for the clock to be true.
MAX_STEPS_AHEAD = 8


class TimeBudget(L.Callback):
    """Ends training at progress 1, which is reached by steps or by time, whichever comes first.

    Expects a Trainer with one endless epoch; replaces Lightning's `max_time`, which knows nothing of a schedule.

    Args:
        seconds: the budget for the `counts` segments of the clock; None for no limit.
        bound_steps: optimizer steps after which the run ends; None for no bound.
        clock: the run's clock; a new one if None.
        counts: segments that the budget limits; must contain `train`.
        step_seconds: what a step is expected to take before one was measured.
        validate_seconds: what a validation is expected to take before one was measured.
        reserve_seconds: counted time that will still be needed after training.
    """

    def __init__(
        self,
        seconds: float | None = None,
        bound_steps: int | None = None,
        clock: Clock | None = None,
        counts: tuple[str, ...] = ("train", "validate"),
        step_seconds: float = 0.1,
        validate_seconds: float = 0.0,
        reserve_seconds: float = 0.0,
    ) -> None:
        if seconds is None and bound_steps is None:
            raise ValueError("a run needs seconds or bound_steps")
        self.seconds, self.bound_steps = seconds, bound_steps
        self.clock = clock or Clock()
        self.counts = counts
        self.limit = None if seconds is None else seconds - reserve_seconds
        self.times = StepTimes(step_seconds)
        self.validate_seconds = validate_seconds
        self.steps = 0
        self.step = Step(0.0, last=False)
        self.stopped_by: str | None = None
        self._begun = False
        self._step_started = 0.0
        self._validation_started = 0.0
        self._events: deque[torch.cuda.Event] = deque()

    @property
    def progress(self) -> float:
        """Progress, in [0, 1], at the predicted end of the current step."""
        return self.step.progress

    def elapsed(self) -> float:
        """Seconds counted so far."""
        return self.clock.counted(self.counts)

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
        if self.step.last or self._agree(trainer, self._next()) is None:
            self.stopped_by = "epochs" if self.bound_steps is not None and self.steps >= self.bound_steps else "budget"
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate once more
        elif self.limit is not None:
            trainer.limit_val_batches = self._val_batches if self._agree(trainer, self._validation_fits()) else 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validation_started = self.elapsed()
            self.clock.enter("validate")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.clock.leave("validate")
            self.validate_seconds = self.elapsed() - self._validation_started

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        trainer.limit_val_batches = self._val_batches
        self.clock.leave("train")

    def on_exception(self, *_: Any) -> None:
        self.clock.unwind()

    def _next(self) -> Step | None:
        return next_step(self.steps, self.bound_steps, self.elapsed(), self.limit, self.times, self.step.progress)

    def _validation_fits(self) -> bool:
        """Whether there is time for a validation, a slow one, and two steps after it."""
        if "validate" not in self.counts:
            return True
        return self.elapsed() + 1.5 * self.validate_seconds + 2 * self.times.slow < self.limit

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
