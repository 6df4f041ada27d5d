"""Chooses by measurement how many CPU threads compute: before training, and again when its steps slow down.

Threads share the work of a layer and wait for the slowest of them. Beside other work on the machine one of them may
have to wait for a core, and all the others with it, so that fewer threads are faster.
"""

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
import torch.nn.functional as F

from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.system.cores import core_count

# Variables by which a user sets torch's number of threads.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@functools.cache
def default_threads() -> int:
    """torch's own number of threads, from before fastconv first changed it, or the number of cores if that is less.

    torch counts all cores of a machine in a container that may use a few, where more threads are many times slower.
    """
    threads = torch.get_num_threads()
    return threads if any(variable in os.environ for variable in VARIABLES) else min(threads, core_count())


def choose_threads(most: int, work: Callable[[], object] | None = None) -> int:
    """The number of threads with which this machine is fastest now: all, half of them or one.

    Measured in turns, so that other work disturbs all alike. Fewer than all must be clearly faster.

    Args:
        most: number of threads at most.
        work: what is timed; None for a convolution, forward and backward.
    """
    options = list(dict.fromkeys([most, max(1, most // 2), 1]))
    if len(options) == 1:
        return most
    before = torch.get_num_threads()
    work, seconds = work or _convolution(), dict.fromkeys(options, 0.0)
    began = time.perf_counter()
    try:
        for turn in range(AUTOTUNE.thread_turns):
            for threads in options:
                torch.set_num_threads(threads)
                work()  # threads start and wake up
                started = time.perf_counter()
                work()
                seconds[threads] += time.perf_counter() - started
            if turn and time.perf_counter() - began > AUTOTUNE.thread_seconds:
                break
    finally:
        torch.set_num_threads(before)
    best = min(options, key=lambda threads: seconds[threads])
    return best if seconds[best] * AUTOTUNE.thread_gain < seconds[most] else most


def _convolution() -> Callable[[], object]:
    """A convolution of the size of a small network's, forward and backward. Leaves the random state as it is."""
    images = torch.ones(32, 24, 16, 16).to(memory_format=torch.channels_last)
    weight = torch.ones(32, 24, 3, 3, requires_grad=True)
    return lambda: F.conv2d(images, weight, padding=1).sum().backward()


def _without_longest(seconds: Sequence[float]) -> float:
    """The sum of all but the longest: no sorting, as short steps are many in the time of a trial."""
    return sum(seconds) - max(seconds, default=0.0)


class ThreadTrials:
    """Decides step by step how many threads compute the next one, by the seconds of the steps so far.

    Where steps have become much slower, or where fewer threads than possible compute, another number computes a few
    steps now and then, in a small share of the time. The faster one stays; it must be clearly faster, so that the
    number does not oscillate.

    Args:
        threads: the first number.
        most: number of threads at most.
        usual: expected seconds of a step, None if not known: the machine may be busy from the first step on.
    """

    def __init__(self, threads: int, most: int, usual: float | None = None) -> None:
        self._threads, self._most = threads, most
        self._tried: int | None = None  # the number of a trial that is going on
        self._before_trial = 0.0  # mean seconds of the steps before it
        self._recent: list[float] = []  # seconds of the latest steps, or of those of the trial
        self._usual = usual
        self._pause, self._since_trial = AUTOTUNE.thread_rest_seconds, 0.0
        self._tried_more = True  # in the last trial that could have tried either

    @property
    def threads(self) -> int:
        """Number of threads for the next step."""
        return self._threads if self._tried is None else self._tried

    @property
    def settled(self) -> int:
        """The number that won so far, also while another is tried."""
        return self._threads

    def add(self, seconds: float, may_try: bool = True, left: float = math.inf) -> int:
        """Record a step, and return the number of threads for the next one.

        Args:
            may_try: whether another number may be tried now; a trial that has begun ends anyway.
            left: seconds of training that are left: a trial must be short beside them.
        """
        self._recent.append(seconds)
        if self._tried is not None:
            steps = self._recent[1:] or self._recent  # the first one wakes the threads up
            if self._is_enough(sum(steps)):
                self._judge(steps)
            return self.threads
        self._since_trial += seconds
        while self._is_enough(_without_longest(self._recent[1:])):
            self._recent.pop(0)
        # A pause of the machine, which may be far longer than a trial, must not make any number look faster.
        usual_steps = _without_longest(self._recent)
        if not self._is_enough(usual_steps):
            return self.threads
        now = usual_steps / (len(self._recent) - 1)
        self._usual = now if self._usual is None else min(self._usual, now)
        is_slow = now > AUTOTUNE.thread_slowdown * self._usual
        pause = self._pause if is_slow else max(self._pause, self._cost(now) / AUTOTUNE.thread_share)
        if may_try and self._since_trial >= pause and (is_slow or self._threads < self._most):
            other = self._other(is_slow)
            worst = self._threads / other if other < self._threads else AUTOTUNE.thread_worst
            if worst * now <= AUTOTUNE.thread_left_share * left:
                self._tried, self._before_trial, self._recent = other, now, []
        return self.threads

    def stop(self) -> int:
        """End a trial without a verdict; return the number that was used before it."""
        self._tried, self._recent = None, []
        return self._threads

    def _other(self, is_slow: bool) -> int:
        """The number to try: half as many where steps are slow, else twice as many, each where it is possible."""
        fewer, more = max(1, self._threads // 2), min(self._most, 2 * self._threads)
        if not is_slow or fewer == self._threads:
            return more
        if more == self._threads:
            return fewer
        self._tried_more = not self._tried_more  # by turns: fewer at first
        return more if self._tried_more else fewer

    def _cost(self, step_seconds: float) -> float:
        """Seconds of a trial, if its number is as fast: its first step, and enough others."""
        return step_seconds + max(step_seconds, AUTOTUNE.thread_trial_seconds)

    def _is_enough(self, seconds: float) -> bool:
        """Whether steps that took `seconds` together show their speed; a single long step is enough."""
        return seconds >= AUTOTUNE.thread_trial_seconds

    def _judge(self, steps: list[float]) -> None:
        """End a trial: keep its number if that is clearly faster.

        Args:
            steps: seconds of the trial's steps, without the first one.
        """
        now, spent = fmean(steps), sum(self._recent)
        assert self._tried is not None
        is_better = now * AUTOTUNE.thread_gain < self._before_trial
        if is_better:
            self._threads, self._usual, self._pause = self._tried, now, AUTOTUNE.thread_rest_seconds
        else:
            self._usual = self._before_trial  # that is usual now: only steps that are slower still are slow
            self._pause = max(AUTOTUNE.thread_rest_seconds, spent / AUTOTUNE.thread_share)
        self._tried, self._recent, self._since_trial = None, [], 0.0
