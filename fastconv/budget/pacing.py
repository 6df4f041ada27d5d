"""Pacing: how far a run is, whether its next step is the last one, and the time it keeps for scoring.

Plain arithmetic on measured times.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median_low
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Pacing:
    """Constants of pacing, each with the measurement or the reason behind its value."""

    # Predicting a step.
    recent_steps: int = 8
    """Steps whose median time predicts the next one's: few, to follow a machine whose speed changes."""
    slow_steps: int = 32
    """Steps among which the slowest is taken as what the next step may take."""
    max_slow_factor: float = 2.0
    """The slowest step counts as at most this many median steps: one outlier must not cost a run its last seconds."""
    min_slow_factor: float = 1.1
    """A step may take this many times what is predicted, even if none has yet."""
    warm_up_factor: float = 5.0
    """A first step that takes this many times the estimate warms something up, and says nothing of the next one."""
    max_steps_ahead: int = 8
    """Steps that the host may be ahead of a GPU: enough to keep it busy, few enough for the clock to be true."""

    max_first_step: float = 0.1
    """The first step counts as at most this share of the time: a disturbed benchmark must not make it the last one."""

    # Ending in time.
    stall_share: float = 0.01
    """Share of the limit that is kept for a stall of the machine, which may outlast many short steps."""
    stall_seconds: float = 0.25
    """Seconds kept for a stall at most."""
    missed_steps: float = 3.0
    """If more slow steps than this are missing from the schedule when the time is over, the process was stopped (by a
    suspended machine, or SIGSTOP), and one last step ends the schedule. Steps that are slow by themselves, at most
    `max_slow_factor` times the usual, miss fewer."""
    reserve_factor: float = 1.2
    """Time that was measured once may be this many times as long the next time."""
    slow_validation_factor: float = 1.5
    """A validation during training starts only if there is time for one that takes this many times the usual."""
    begin_scoring_seconds: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType({"cpu": 0.05, "cuda": 0.6})
    )
    """Seconds before the first image is scored: on a GPU the scoring kernels have to be loaded."""
    max_first_reserve: float = 0.5
    """Share of the time that is kept for scoring at most, before a run has measured how long that takes."""

    # Measuring the time for scoring during training, on a CPU.
    score_at: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
    """Progress at which a batch is scored, as the benchmark may be out of date. Often, as a shared machine may be
    three times slower at the end than a minute before."""
    doubtful_factor: float = 1.5
    """A time this many times the median of those before is measured again before it counts."""
    uncertain: float = 0.5
    """Share of the images taken to be uncertain, so that they get all views, before any was measured."""
    unseen_factor: float = 1.25
    """Of unseen images, this many times the share of the training images is uncertain: a network may have memorised
    those."""
    min_uncertain: float = 0.25
    """Share of the images taken to be uncertain at least, for the same reason."""

    calibration_images: int = 2000
    """Images on which the temperature is fitted: at 70 to 90 % accuracy, the mean confidence is then within 1 % of what
    all images would ask for (the standard error of the accuracy), which is what calibration is judged by."""

    # The stream.
    stream_margin: float = 1.15
    """Epochs to precompute for each one expected: a machine may turn out faster than its benchmark."""


PACING = Pacing()


@dataclass
class StepTimes:
    """Predicts the duration of steps in seconds, from an estimate first and then from the latest steps.

    Args:
        estimate: seconds of a step, before one was measured.
    """

    estimate: float
    pacing: Pacing = PACING
    _times: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self._times = deque(maxlen=self.pacing.slow_steps)

    def add(self, seconds: float) -> None:
        """Record the duration of a step."""
        self._times.append(seconds)

    def latest(self) -> list[float]:
        """The durations that are remembered, oldest first."""
        return list(self._times)

    @property
    def expected(self) -> float:
        """Expected duration of the next step."""
        recent = list(self._times)[-self.pacing.recent_steps :]
        if not recent or (len(recent) == 1 and recent[0] > self.pacing.warm_up_factor * self.estimate):
            return self.estimate
        return median_low(recent)

    @property
    def slow(self) -> float:
        """Duration of the next step if it is a slow one."""
        slowest = max(self._times, default=self.estimate)
        pacing = self.pacing
        return min(max(slowest, pacing.min_slow_factor * self.expected), pacing.max_slow_factor * self.expected)

    @property
    def worst(self) -> float:
        """Duration for which the next step must have time: while only few are known, the longest of them."""
        return self.slow if len(self._times) > 2 else max(self.slow, *self._times, 0.0)


@dataclass
class ScoringReserve:
    """Counted time that is kept for the end of a run: for scoring images and for writing checkpoints.

    Until scoring starts, `seconds` says how much to keep, by what was measured last (`update`). After `start_scoring`,
    while images are scored one batch after the other, `allows` says whether there is time for more views of them. What
    the budget does not count is 0.

    Args:
        images: images to score.
        image_seconds: seconds per image.
        view_seconds: seconds per further view of an image as a rule, where views can be left out; else None.
        views: views per image on average.
        begin_seconds: seconds before the first image is scored.
        saves: checkpoints to write.
        save_seconds: seconds per checkpoint.
        calibration_images: images to score in one view before, to fit the temperature on.
    """

    images: int = 0
    image_seconds: float = 0.0
    view_seconds: float | None = None
    views: float = 1.0
    begin_seconds: float = 0.0
    saves: int = 0
    save_seconds: float = 0.0
    calibration_images: int = 0
    pacing: Pacing = PACING
    skipped: int = field(default=0, init=False)
    """Images for whose further views there was no time."""
    _seconds_left: Callable[[], float] | None = field(default=None, init=False, repr=False)

    @property
    def seconds(self) -> float:
        """Seconds to keep. Views that can be left out get no margin."""
        factor = self.pacing.reserve_factor
        single = self.images + self.calibration_images
        scoring = self.begin_seconds + single * self.image_seconds if self.images else 0.0
        each = factor * self.image_seconds if self.view_seconds is None else self.view_seconds
        further = self.images * (self.views - 1) * each
        return factor * (scoring + self.saves * self.save_seconds) + further

    def update(
        self,
        *,
        image_seconds: float | None = None,
        view_seconds: float | None = None,
        views: float | None = None,
        save_seconds: float | None = None,
    ) -> None:
        """Take over what was measured anew; None leaves a value as it is."""
        self.image_seconds = self.image_seconds if image_seconds is None else image_seconds
        self.view_seconds = self.view_seconds if view_seconds is None else view_seconds
        self.views = self.views if views is None else views
        self.save_seconds = self.save_seconds if save_seconds is None else save_seconds

    def state(self) -> dict[str, Any]:
        """The measured values, for a checkpoint; `update(**state)` restores them."""
        names = ("image_seconds", "view_seconds", "views", "save_seconds")
        return {name: getattr(self, name) for name in names}

    def start_scoring(self, images: int, seconds_left: Callable[[], float]) -> None:
        """Begin to score `images` images; `seconds_left` says at any time how many seconds of the budget are left."""
        self.images, self.skipped, self._seconds_left = images, 0, seconds_left

    def scored(self, images: int, seconds: float) -> None:
        """Record that the next batch was scored, in one view of each image, and how many seconds that took."""
        self.images = max(0, self.images - images)
        self.image_seconds = seconds / images

    def allows(self, images: int, views: int) -> bool:
        """Whether there is time for `views` further views of `images` images of the batch scored last.

        There is if all images that are left can still be scored in one view, should each take as long as in that batch.
        Counts the images as skipped if there is not.
        """
        needed = self.pacing.reserve_factor * self.image_seconds * (self.images + images * views)
        is_allowed = self._seconds_left is None or self._seconds_left() >= needed
        self.skipped += 0 if is_allowed else images
        return is_allowed


def is_cut_short(reached: float, limit: float | None, times: StepTimes) -> bool:
    """Whether a run whose time is over was stopped in the middle of its schedule, at progress `reached`."""
    return limit is not None and (1 - reached) * limit > times.pacing.missed_steps * times.worst


@dataclass(frozen=True)
class Step:
    """The coming step: the progress, in [0, 1], at its predicted end, and whether it is the last."""

    progress: float
    last: bool


def next_step(
    done: int, max_steps: int | None, elapsed: float, limit: float | None, times: StepTimes, reached: float
) -> Step | None:
    """Decide the coming step, or None if the time for it has run out.

    The progress of a run is the larger of its share of steps and its share of time. The step after which no other would
    surely fit is the last one; its progress is 1, so the schedule always ends.

    Args:
        done, max_steps: steps done, and steps after which the run ends (None: only time ends it).
        elapsed, limit: seconds counted, and seconds there are for steps (None: only steps end it).
        times: predicted step times.
        reached: progress of the step before; progress never falls.
    """
    progress, last = reached, False
    if max_steps is not None:
        if done >= max_steps:
            return None
        progress, last = max(progress, (done + 1) / max_steps), done + 1 >= max_steps
    if limit is not None:
        if elapsed + times.worst > limit and done:
            return None
        # If one step turns out slow, there must still be time for a slow last one.
        stall = min(times.pacing.stall_share * limit, times.pacing.stall_seconds)
        goal = limit - max(2 * (times.slow - times.expected), stall)
        end = elapsed + times.expected
        progress = max(progress, end / goal if goal > 0 else 1.0)
        last = last or end + times.expected > goal
    return Step(1.0 if last else min(progress, 1.0), last)
