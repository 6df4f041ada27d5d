"""The part of `TimeBudget` by which all ranks of a run take the same steps."""

import abc

import lightning as L
from torch import Tensor

from fastconv.budget.clock import Clock
from fastconv.budget.foresight import Foresight, foresee
from fastconv.budget.next_step import Step
from fastconv.budget.pacing import Pacing, StepTimes
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.budget.step_clock import StepClock
from fastconv.budget.steps_ahead import StepsAhead
from fastconv.training.agreement import Agreement


class SharedSteps(L.Callback, abc.ABC):
    """Makes all ranks follow the first rank's decisions: their clocks differ, but all must stop at the same step.

    The first rank decides in the middle of each step how it ends and what follows. Its message travels while the ranks
    compute, so that none of them waits for it. Callbacks add what else the ranks must agree on to `agreement`, in their
    `setup`; it travels in the same message.
    """

    clock: Clock
    max_steps: int | None
    reserve: ScoringReserve
    steps: int
    step: Step
    times: StepTimes
    work: float
    _ahead: StepsAhead
    _began: float
    _step_clock: StepClock

    def __init__(self, pacing: Pacing) -> None:
        self.agreement = Agreement()
        """The decisions that the ranks of a run make together, at each step."""
        self._decided: Foresight | None = None  # the first rank's decisions for the current step, if they are here
        self._foreseen: Foresight | None = None  # of the next step, unless it must be decided anew
        self._shared_at: float | None = None  # seconds of the segment `train` when they were sent; None before
        self._after_share = StepTimes(0.0, pacing)  # seconds from `share` to the end of a step
        self._on_cpu, self._ranks = True, 1

    @property
    @abc.abstractmethod
    def limit(self) -> float | None:
        """Counted seconds by which training must have ended."""

    @abc.abstractmethod
    def elapsed(self) -> float:
        """Seconds counted so far."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            self.agreement.ask("step", self._foresee, of_first=True)

    def share(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Send the decisions of the current step, unless they were sent; nothing waits for them.

        The best moment is before the ranks exchange gradients: then the decisions are there when the gradients are.
        """
        if self._shared_at is not None:
            return
        if self._on_cpu and self.limit is not None:
            self._time_scoring(trainer, pl_module)
        self._shared_at = self.clock.counted(("train",))
        self._decided = None
        self.agreement.clear()
        self.agreement.start()

    def discard_foresight(self) -> None:
        """Discard the prediction of the next step, since something long came before it. All ranks call this."""
        self._foreseen = None

    def _open(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to agree, when training begins."""
        self._ranks = trainer.world_size
        if self._ranks == 1:
            return
        self._on_cpu = pl_module.device.type == "cpu"
        self._foreseen, self._shared_at = None, None
        self.agreement.open()
        (self._began,) = self.agreement.now([self._began], of_first=True)

    def _agreed_next(self) -> Step | None:
        """The coming step; None if the time for it has run out."""
        if self._ranks == 1:
            return self._next()
        if self._foreseen is not None:
            return self._foreseen.following
        step = self._next()
        progress, last = self.agreement.now([step.progress, step.last] if step else [-1.0, 0.0], of_first=True)
        return Step(progress, last=bool(last)) if progress >= 0 else None

    def _agreed(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Foresight:
        """The first rank's decisions in the middle of the current step."""
        self.share(trainer, pl_module)
        if self._decided is None:
            self._decided = Foresight.of(self.agreement.found["step"])
        return self._decided

    def _end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[bool, bool]:
        """Whether training ends with the current step, and whether a validation fits after it."""
        if self._ranks == 1:
            return self._must_stop(), self._validation_fits()
        self._foreseen = foreseen = self._agreed(trainer, pl_module)
        self._after_share.add(self.clock.counted(("train",)) - (self._shared_at or 0.0))
        self.step, self._shared_at = foreseen.current, None
        return foreseen.stop, bool(self.agreement.found["step"][-1])

    def _foresee(self) -> list[float]:
        """This rank's decisions for the current step: the numbers of a `Foresight`, and whether a validation fits."""
        rest, elapsed, times = self._after_share.expected, self.elapsed(), self.times
        if self._on_cpu:
            elapsed += rest
            times = times.with_step((self._step_clock.seconds() + rest) / self.work)
            self.reserve.spread = times.spread
        else:  # the host does not know how long the current step takes
            elapsed += (self._ahead.count + 1) * times.expected
        foreseen = foresee(
            self.step,
            self.steps,
            self.max_steps,
            elapsed,
            self.limit,
            times,
            0.0 if self.limit is None else self.reserve.spare,
            self._began,
            self._on_cpu,
        )
        return [*foreseen.numbers(), float(self._validation_fits(rest))]

    @abc.abstractmethod
    def _next(self) -> Step | None:
        """The coming step; None if the time for it has run out."""

    @abc.abstractmethod
    def _must_stop(self) -> bool:
        """Whether no further step follows."""

    @abc.abstractmethod
    def _validation_fits(self, before: float = 0.0) -> bool:
        """Whether there is time for a slow validation that begins in `before` seconds."""

    @abc.abstractmethod
    def _time_scoring(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure from time to time how long scoring an image takes."""


class ShareSteps(L.Callback):
    """Sends the decisions of each step as soon as the last gradients of a batch are to be computed.

    Args:
        budget: the run's budget.
    """

    def __init__(self, budget: SharedSteps) -> None:
        self._budget = budget

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if getattr(trainer.model, "require_backward_grad_sync", True):  # not if gradients are only accumulated
            self._budget.share(trainer, pl_module)
