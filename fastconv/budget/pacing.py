"""How far a run is and whether its next step is the last one: plain arithmetic on measured times."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median_low

# Steps whose times predict the next one's, and those among which the slowest is looked for.
RECENT_STEPS = 8
SLOW_STEPS = 32
# One outlier must not cost a run its last seconds: the slowest step counts as at most this many median steps.
MAX_SLOW_FACTOR = 2.0
# A first step that takes this many times what was expected warms something up, and says nothing of the next one.
WARM_UP_FACTOR = 5.0
# Without variation seen yet, a step may take this much longer than predicted.
MIN_SLOW_FACTOR = 1.1
# Kept free at the end for a stall of the machine, which may outlast many short steps: a share of the limit, at most so
# many seconds.
STALL_SHARE, STALL_SECONDS = 0.01, 0.25
# What was measured once may take this much longer the next time.
RESERVE_FACTOR = 1.2
# Seconds before the first image is scored, by device: on a GPU what scores has to be loaded to it.
SCORING_BEGINS = {"cpu": 0.05, "cuda": 0.6}


@dataclass
class StepTimes:
    """Predicts the duration of steps in seconds, from an estimate first and then from the latest steps."""

    estimate: float
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=SLOW_STEPS))

    def add(self, seconds: float) -> None:
        """Note how long a step took."""
        self._times.append(seconds)

    def latest(self) -> list[float]:
        """The durations that are remembered, oldest first."""
        return list(self._times)

    @property
    def expected(self) -> float:
        """What the next step will take."""
        recent = list(self._times)[-RECENT_STEPS:]
        if not recent or (len(recent) == 1 and recent[0] > WARM_UP_FACTOR * self.estimate):
            return self.estimate
        return median_low(recent)

    @property
    def slow(self) -> float:
        """What the next step may take."""
        slowest = max(self._times, default=self.estimate)
        return min(max(slowest, MIN_SLOW_FACTOR * self.expected), MAX_SLOW_FACTOR * self.expected)

    @property
    def worst(self) -> float:
        """What the next step must have time for: as long as few are known, the longest of them."""
        return self.slow if len(self._times) > 2 else max(self.slow, *self._times, 0.0)


@dataclass
class Reserve:
    """Counted time that is needed after training, by what was measured last.

    `images` are to be scored, `views` times each on average, at `image_seconds`, after `begin_seconds`, and `saves`
    checkpoints written at `save_seconds` each; what the budget does not count is 0. Where other views than the image
    itself can be left out, `view_seconds` is what one takes as a rule, and no more is kept for it.
    """

    images: int = 0
    image_seconds: float = 0.0
    view_seconds: float | None = None
    views: float = 1.0
    begin_seconds: float = 0.0
    saves: int = 0
    save_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """What to keep free."""
        scoring = self.begin_seconds + self.images * self.image_seconds if self.images else 0.0
        each = RESERVE_FACTOR * self.image_seconds if self.view_seconds is None else self.view_seconds
        others = self.images * (self.views - 1) * each
        return RESERVE_FACTOR * (scoring + self.saves * self.save_seconds) + others


@dataclass
class SpareTime:
    """For whom there is time to score more views, while images are scored one batch after the other.

    `left` says how many seconds there are; `images` are still to be scored, themselves at least. A batch of views is
    allowed if there is time for all of that, should it take as long for each image as the batch itself did.
    """

    left: Callable[[], float]
    images: int
    left_out: int = 0
    """Images for whose views there was no time."""
    _image_seconds: float = 0.0

    def note(self, images: int, seconds: float) -> None:
        """So many images of the next batch were scored, themselves, in so many seconds."""
        self.images = max(0, self.images - images)
        self._image_seconds = seconds / images

    def allows(self, images: int, views: int) -> bool:
        """Whether there is time for so many more views of so many images."""
        ok = self.left() >= RESERVE_FACTOR * self._image_seconds * (self.images + images * views)
        self.left_out += 0 if ok else images
        return ok


@dataclass(frozen=True)
class Step:
    """The coming step: the progress, in [0, 1], at its predicted end, and whether it is the last."""

    progress: float
    last: bool


def next_step(
    done: int, bound: int | None, elapsed: float, limit: float | None, times: StepTimes, reached: float
) -> Step | None:
    """Decide the coming step, or None if the time for it has run out.

    A run is as far as the larger of its share of steps and its share of time. The step after which no other would
    surely fit is the last one; its progress is 1, so the schedule always ends.

    Args:
        done, bound: steps done, and steps after which the run ends (None: only time ends it).
        elapsed, limit: seconds counted, and seconds there are for steps (None: only steps end it).
        times: predicted step times.
        reached: progress of the step before; progress never falls.
    """
    progress, last = reached, False
    if bound is not None:
        if done >= bound:
            return None
        progress, last = max(progress, (done + 1) / bound), done + 1 >= bound
    if limit is not None:
        if elapsed + times.worst > limit and done:
            return None
        # If one step turns out slow, there must still be time for a slow last one.
        goal = limit - max(2 * (times.slow - times.expected), min(STALL_SHARE * limit, STALL_SECONDS))
        end = elapsed + times.expected
        progress = max(progress, end / goal if goal > 0 else 1.0)
        last = last or end + times.expected > goal
    return Step(1.0 if last else min(progress, 1.0), last)
