"""The number of CPU threads, on simulated machines whose speed depends on it."""

import itertools

import pytest
import torch

from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.budget.threads import VARIABLES, ThreadTrials, choose_threads, default_threads


@pytest.mark.parametrize(
    ("most", "seconds", "chosen"),
    [
        (2, {2: 0.010, 1: 0.018}, 2),
        (2, {2: 0.030, 1: 0.010}, 1),  # beside other work
        (2, {2: 0.010, 1: 0.0095}, 2),  # no clear difference
        (8, {8: 0.030, 4: 0.010, 1: 0.040}, 4),
        (1, {}, 1),
    ],
)
def test_the_faster_number_is_chosen(monkeypatch, most, seconds, chosen):
    now, before = 0.0, torch.get_num_threads()

    def work() -> None:
        nonlocal now
        now += seconds[torch.get_num_threads()]

    monkeypatch.setattr("fastconv.budget.threads.time.perf_counter", lambda: now)
    assert choose_threads(most, work) == chosen
    assert now < AUTOTUNE.thread_seconds + 4 * sum(seconds.values())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("given", "threads"), [({}, 2), ({"OMP_NUM_THREADS": "6"}, 8), ({"MKL_NUM_THREADS": "6"}, 8)])
def test_a_container_begins_with_as_many_as_its_cores(monkeypatch, given, threads):
    """torch counts those of the machine; what a user has set, it has read itself."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr("fastconv.budget.threads.core_count", lambda: 2)
    assert default_threads.__wrapped__() == threads


def run(trials: ThreadTrials, seconds_of, until: float) -> list[tuple[float, int, float]]:
    """(time, threads, seconds) of each step of a run: `seconds_of` gives those of a step by time and threads."""
    now, steps = 0.0, []
    while now < until:
        threads = trials.threads
        seconds = seconds_of(now, threads)
        steps.append((now, threads, seconds))
        now += seconds
        trials.add(seconds, left=until - now)
    return steps


@pytest.mark.parametrize("step", [0.01, 0.2, 2.0])
def test_a_quiet_machine_keeps_all_its_threads(step):
    steps = run(ThreadTrials(2, 2), lambda now, threads: step * {2: 1, 1: 1.8}[threads], 60)
    assert {threads for _, threads, _ in steps} == {2}


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3])
def test_fewer_threads_while_something_else_keeps_the_machine_busy(step):
    """From 20 to 60 s two threads take five times as long, and one takes as long as ever."""

    def seconds_of(now: float, threads: int) -> float:
        return step * (1.8 if threads == 1 else 5 if 20 <= now < 60 else 1)

    steps = run(ThreadTrials(2, 2), seconds_of, 120)
    settled = {now: threads for now, threads, _ in steps}
    assert {threads for now, threads in settled.items() if now < 20} == {2}
    busy, later = ([t for now, t in settled.items() if low <= now < high] for low, high in ((30, 60), (90, 120)))
    assert busy.count(1) > 0.9 * len(busy)
    assert later.count(2) > 0.9 * len(later)
    assert sum(seconds for now, _, seconds in steps if now > 30 and seconds > 2 * step) < 5, "few trials"


@pytest.mark.parametrize("ratio", [0.95, 1.0, 1.1])
def test_numbers_that_are_equally_fast_do_not_alternate(ratio):
    """With steps that become ever slower and one thread about as fast, there are trials, and they take little time."""
    noise = itertools.cycle([1.0, 1.05, 0.95])

    def seconds_of(now: float, threads: int) -> float:
        return 0.02 * 1.007**now * next(noise) * (ratio if threads == 1 else 1)

    trials, kept = ThreadTrials(2, 2), set()
    steps = run(trials, lambda now, threads: kept.add(trials.settled) or seconds_of(now, threads), 300)
    assert kept == {2}
    assert sum(seconds for _, threads, seconds in steps if threads == 1) < 0.05 * 300
    assert any(threads == 1 for _, threads, _ in steps)


@pytest.mark.parametrize("step", [0.01, 0.1, 0.3, 2.0])
@pytest.mark.parametrize("pause", [10.0, 100.0])
def test_a_pause_of_the_machine_is_no_reason_for_another_number(step, pause):
    """As of a process that is stopped and goes on: a single step takes as long as the pause."""
    trials, kept, paused = ThreadTrials(2, 2), set(), False

    def seconds_of(now: float, threads: int) -> float:
        nonlocal paused
        kept.add(trials.settled)
        is_paused, paused = now > 20 and not paused, now > 20
        return step * (1.8 if threads == 1 else 1) + pause * is_paused

    run(trials, seconds_of, 60 + pause)
    assert paused
    assert kept == {2}


def test_a_trial_of_long_steps_is_one_step():
    steps = run(ThreadTrials(1, 2), lambda now, threads: {1: 0.1, 2: 10.0}[threads], 60)
    assert sum(threads == 2 for _, threads, _ in steps) == 1


def test_a_trial_without_a_verdict_changes_nothing():
    trials = ThreadTrials(1, 2)
    while trials.add(0.1) == 1:
        pass
    assert trials.stop() == 1
    assert [trials.add(0.1, may_try=False) for _ in range(100)] == [1] * 100


@pytest.mark.parametrize("step", [0.01, 0.1, 0.5])
def test_a_run_that_begins_on_a_busy_machine_tries_fewer_threads(step):
    """The benchmark expected a fifth of what two threads take from the first step on; one thread takes less."""
    steps = run(ThreadTrials(2, 2, usual=step), lambda now, threads: step * {2: 5, 1: 1.8}[threads], 60)
    late = [threads for now, threads, _ in steps if now > 20]
    assert late.count(1) > 0.9 * len(late)


@pytest.mark.parametrize("until", [8.0, 20.0, 60.0])
@pytest.mark.parametrize("step", [0.02, 0.3, 1.0, 3.0])
def test_a_trial_takes_a_share_of_what_is_left_at_most(step, until):
    """With two threads, each step takes six times as long as with one."""
    steps = run(ThreadTrials(1, 2), lambda now, threads: step * {1: 1, 2: 6}[threads], until)
    for now, threads, seconds in steps:
        assert threads == 1 or seconds <= 0.15 * (until - now) + 1e-9
