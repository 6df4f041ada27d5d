"""Times each step of a run, and what comes between two steps."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastconv.budget.clock import Clock
from fastconv.budget.pacing import PACING, Pacing, StepTimes

TRAIN = ("train",)


class StepClock:
    """Measures steps in seconds of the segment `train`, each from the end of the step before: with what other callbacks
    do after that, and with the wait for the batch.

    Args:
        clock: the run's clock.
        pacing: constants of pacing.
    """

    def __init__(self, clock: Clock, pacing: Pacing = PACING) -> None:
        self._clock = clock
        self._since: float | None = None  # when the step before ended
        self.between = StepTimes(0.0, pacing)
        """Seconds between two steps, of other callbacks and of waiting."""

    def begin(self) -> None:
        """Note that a step begins."""
        trained = self._clock.counted(TRAIN)
        if self._since is None:
            self._since = trained
        else:
            self.between.add(trained - self._since)

    def seconds(self) -> float:
        """Seconds of the current step so far."""
        return self._clock.counted(TRAIN) - (self._since or 0.0)

    def end(self) -> float:
        """Note that the step ends; return its seconds."""
        ended = self._clock.counted(TRAIN)
        seconds, self._since = ended - (self._since or 0.0), ended
        return seconds

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """The seconds of the block are of no step."""
        before = self._clock.counted(TRAIN)
        yield
        if self._since is not None:
            self._since += self._clock.counted(TRAIN) - before
