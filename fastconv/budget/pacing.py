"""Pacing: how long the steps of a run take, and how carefully it plans with that."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low
from types import MappingProxyType


@dataclass(frozen=True)
class Pacing:
    """Constants of pacing, each with the measurement or the reason behind its value."""

    # Predicting a step.
    recent_steps: int = 8
    """Steps whose median time predicts the next one's: few, to follow a machine whose speed changes."""
    slow_steps: int = 32
    """Steps among which the slowest is taken as what the next step may take."""
    max_slow_factor: float = 2.0
    """The slowest step counts as at most this many median steps, unless another was as slow: one outlier must not cost
    a run its last seconds."""
    slow_share: float = 0.01
    """It counts for that share of the budget all the same: beside other work, short steps take up to six times the
    usual (two busy loops on two cores), and time for one of these costs a run little."""
    slower_still: float = 0.25
    """The slowest of a few steps is not the slowest there can be: it counts as slower by this share of what it took
    beyond the usual."""
    min_slow_factor: float = 1.1
    """A step may take this many times what is predicted, even if none has yet."""
    warm_up_factor: float = 5.0
    """A first step that takes this many times the estimate warms something up, and says nothing of the next one."""
    max_steps_ahead: int = 8
    """Steps that the host may be ahead of a GPU: enough to keep it busy, few enough for the clock to be true."""

    # Ending in time.
    stall_share: float = 0.01
    """Share of the limit that is kept for a stall of the machine, which may outlast many short steps."""
    stall_seconds: float = 0.25
    """Seconds kept for a stall at most."""
    missed_steps: float = 3.0
    """If more slow steps than this are missing from the schedule when the time is over, the process was stopped (by a
    suspended machine, or SIGSTOP), and one last step ends the schedule. Steps that are slow by themselves, at most
    `max_slow_factor` times the usual, miss fewer."""
    missed_share: float = 0.05
    """So it does if more than this share of the schedule is missing, as after few long steps: at 0.95 the learning rate
    of the one-cycle and linear schedules is still 4 to 6 % of its peak."""
    training_factor: float = 3.0
    """A step takes about this many times as long as scoring its images: a gradient of the images and one of the weights
    besides. That tells a first step that warmed something up from one that is slow by itself."""
    reserve_factor: float = 1.2
    """Time that was measured once may be this many times as long the next time."""
    max_spread: float = 6.0
    """What happens once, such as writing the checkpoint, may take longer by the spread of the latest steps, which
    reaches this beside two busy loops on two cores."""
    margin_share: float = 0.1
    """Share of the budget that is kept at most for that: a first checkpoint sets things up, and must not cost the
    training many times its seconds."""
    slow_validation_factor: float = 1.5
    """A validation during training starts only if there is time for one that takes this many times as long as the last
    one, or that is as much slower than the last one as the slowest step is than the steps before that."""
    sudden_factor: float = 3.0
    """A machine may be this many times slower from one moment to the next: when two busy loops begin on its two cores.
    The first validation, which only the benchmark has measured, must fit even then."""
    finish_seconds: float = 0.15
    """Seconds between scoring and the written result, on a CPU: the digest of the weights, metrics.csv, results.json.
    They take 0.05 s on two quiet cores and 0.2 s beside six other processes."""
    least_portion: int = 16
    """Images of a portion at least: of fewer, each takes longer."""
    portion_seconds: float = 0.25
    """When time becomes short, further views are scored in portions that should take so long: what a machine that is
    suddenly slower adds to one is the most that they can cost beyond the budget."""
    begin_scoring_seconds: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType({"cpu": 0.05, "cuda": 0.6, "mps": 0.6})
    )
    """Seconds before the first image is scored: on a GPU the scoring kernels have to be loaded. Apple's were not
    measured."""

    # Measuring the time for scoring during training, on a CPU.
    score_at: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
    """Progress at which a batch is scored, as the benchmark may be out of date. Often, as a shared machine may be
    three times slower at the end than a minute before."""
    unmeasured_share: float = 0.5
    """Share of the time that is left which is kept for scoring at most, before it was measured often enough: a
    benchmark that was disturbed must not end the run with its first step."""
    sure_measurements: int = 4
    """Batches to score before the time that they take may end the run, and before the slowest of the earlier ones is
    left out: beside four other processes on two cores, the first took three times as long as scoring did at the
    end."""
    unmeasured_step_share: float = 0.1
    """Share of the time that is left which the first step is expected to take at most, for the same reason."""
    doubtful_factor: float = 1.5
    """A time this many times the median of those before is measured again before it counts."""
    uncertain: float = 0.5
    """Share of the images taken to be uncertain, so that they get all views, before any was measured."""
    unseen_factor: float = 1.25
    """Of unseen images, this many times the share of the training images is uncertain: a network may have memorised
    those."""
    views_share: float = 0.1
    """Share of the budget that is kept for views that can be left out at most, as `Autotune` plans no more for them:
    on a machine that is many times slower than its benchmark, they would leave nothing for training."""
    min_uncertain: float = 0.1
    """Share of the images taken to be uncertain at least, for the same reason. More would be kept for little, as
    the least certain images come first."""
    calibration_images: int = 2000
    """Images on which the temperature is fitted: at 70 to 90 % accuracy, the mean confidence is then within 1 % of what
    all images would ask for (the standard error of the accuracy), which is what calibration is judged by."""

    # The stream.
    stream_margin: float = 1.15
    """Epochs to precompute for each one expected: a machine may turn out faster than its benchmark."""
    precompute_share: float = 0.2
    """Share of the time that is left which precomputing may take, where the budget counts it. What is not written then
    is computed while training, in about the same time: nothing is lost, and the run begins."""


PACING = Pacing()


@dataclass
class StepTimes:
    """Predicts the duration of steps in seconds, from an estimate first and then from the latest steps.

    Args:
        estimate: seconds of a step, before one was measured.
        pacing: constants of pacing.
        allowance: seconds up to which the slowest step counts, even if they are many usual ones.
        most_unmeasured: seconds that a step is expected to take at most before one was measured.
    """

    estimate: float
    pacing: Pacing = PACING
    allowance: float = 0.0
    most_unmeasured: float = math.inf
    _times: deque[float] = field(init=False)
    # Of these times, until the next one is added: a step asks for them some twenty times.
    _ordered: list[float] | None = field(default=None, init=False, repr=False, compare=False)
    _median: float | None = field(default=None, init=False, repr=False, compare=False)
    _slow: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._times = deque(maxlen=self.pacing.slow_steps)

    def add(self, seconds: float) -> None:
        """Record the duration of a step."""
        self._times.append(seconds)
        self._ordered = self._median = self._slow = None

    def with_step(self, seconds: float) -> "StepTimes":
        """These times, and that of one more step."""
        times = StepTimes(self.estimate, self.pacing, self.allowance, self.most_unmeasured)
        times._times.extend(self._times)
        times.add(seconds)
        return times

    def latest(self) -> list[float]:
        """The durations that are remembered, oldest first."""
        return list(self._times)

    @property
    def expected(self) -> float:
        """Expected duration of the next step."""
        times = self._times
        if not times or (len(times) == 1 and times[0] > self.pacing.warm_up_factor * self.estimate):
            return min(self.estimate, self.most_unmeasured)
        if self._median is None:
            self._median = median_low(list(times)[-self.pacing.recent_steps :])
        return self._median

    @property
    def slow(self) -> float:
        """Duration of the next step if it is a slow one."""
        if self._slow is not None:
            return self._slow
        expected = self.expected
        ordered = self._in_order() or [expected]
        second = ordered[-2] if len(ordered) > self.pacing.recent_steps else 0.0
        most = max(self.pacing.max_slow_factor * expected, second, self.allowance)
        slowest = ordered[-1] + self.pacing.slower_still * max(0.0, ordered[-1] - expected)
        slow = min(max(slowest, self.pacing.min_slow_factor * expected), most)
        if len(ordered) > 1:  # before, it depends on the estimate, which may change
            self._slow = slow
        return slow

    @property
    def spread(self) -> float:
        """A slow step's time divided by a quick one's: one step in eight is quicker, and one in eight slower."""
        ordered = self._in_order()
        eighth = len(ordered) // 8
        return ordered[-1 - eighth] / max(ordered[eighth], 1e-9) if eighth else 1.0

    @property
    def worst(self) -> float:
        """Duration for which the next step must have time: while only few are known, the longest of them."""
        return self.slow if len(self._times) > 2 else max(self.slow, *self._times, 0.0)

    def _in_order(self) -> list[float]:
        """The durations that are remembered, shortest first."""
        if self._ordered is None:
            self._ordered = sorted(self._times)
        return self._ordered
