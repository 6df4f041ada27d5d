"""Pacing on simulated machines: when a run ends, the clock, and the time that is kept for scoring."""

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastconv.budget.clock import Clock
from fastconv.budget.next_step import next_step
from fastconv.budget.pacing import Pacing, StepTimes
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.callbacks import TimeBudget
from fastconv.config.schema import SEGMENTS
from fastconv.models.tta import Views


def simulate(step_seconds, limit, bound=None, estimate=None):
    """Run a machine whose steps take `step_seconds` (endless); return (seconds, progress of every step)."""
    step_seconds = iter(step_seconds)
    times = StepTimes(estimate or 0.1)
    elapsed, progress = 0.0, []
    while True:
        step = next_step(len(progress), bound, elapsed, limit, times, progress[-1] if progress else 0.0)
        if step is None:
            return elapsed, progress
        spent = next(step_seconds)
        elapsed += spent
        times.add(spent)
        progress.append(step.progress)
        if step.last:
            return elapsed, progress


def noisy(mean, spread, seed=0):
    generator = np.random.default_rng(seed)
    while True:
        yield mean * (1 + abs(generator.normal(0, spread)))


MACHINES = {
    "even": lambda: itertools.repeat(0.1),
    "noisy": lambda: noisy(0.1, 0.1),
    "very noisy": lambda: noisy(0.1, 0.3),
    "hiccups": lambda: itertools.cycle([0.1] * 50 + [0.5]),
    "slower half-way": lambda: itertools.chain(itertools.repeat(0.1, 400), itertools.repeat(0.25)),
    "faster half-way": lambda: itertools.chain(itertools.repeat(0.25, 150), itertools.repeat(0.1)),
    "slow first step": lambda: itertools.chain([3.0], itertools.repeat(0.1)),
}


@pytest.mark.parametrize("estimate", [0.02, 0.1, 0.5], ids=lambda value: f"estimate {value}")
@pytest.mark.parametrize("machine", MACHINES)
def test_ends_inside_the_budget_and_uses_it(machine, estimate):
    elapsed, progress = simulate(MACHINES[machine](), limit=100.0, estimate=estimate)
    assert 97 <= elapsed <= 100
    assert progress[-1] == 1, "the schedule always ends"
    assert (np.diff(progress) >= 0).all(), "progress never falls"
    assert progress[-2] > 0.97, "and is not cut short"


@pytest.mark.parametrize("limit", [10.0, 60.0])
def test_a_stall_at_any_step_does_not_break_the_budget(limit):
    """Steps of 10 ms, and one of 90 ms among every 40, wherever the last one falls."""
    for before in range(0, 40, 1 if limit == 10 else 8):
        machine = itertools.cycle([0.01] * before + [0.09] + [0.01] * (39 - before))
        elapsed, progress = simulate(machine, limit, estimate=0.01)
        assert 0.98 * limit <= elapsed <= limit
        assert progress[-1] == 1


@pytest.mark.parametrize("first", [0.5, 3.5, 4.9])
def test_a_first_step_that_warms_up_is_not_taken_as_typical(first):
    """As on a GPU: seconds for the first step, and a few milliseconds for each other."""
    elapsed, progress = simulate(itertools.chain([first], itertools.repeat(0.01)), limit=10.0, estimate=0.01)
    assert 9.7 <= elapsed <= 10
    assert progress[1] == pytest.approx(first / 10, abs=0.02)
    assert progress[-1] == 1


def test_a_first_step_that_is_just_slow_is_believed():
    """The benchmark was wrong by far, and a second step would not fit."""
    elapsed, _ = simulate(itertools.repeat(1.0), limit=1.5, estimate=0.1)
    assert elapsed == 1.0


@pytest.mark.parametrize("step", [1.0, 3.0, 9.0, 20.0, 60.0])
def test_few_long_steps(step):
    """The budget holds to a step when only a few fit."""
    elapsed, progress = simulate(itertools.repeat(step), limit=100.0, estimate=step)
    assert 100 - 2 * step < elapsed <= 100
    assert progress[-1] == 1


def test_steps_bound_the_run_first():
    elapsed, progress = simulate(itertools.repeat(0.1), limit=100.0, bound=50)
    assert elapsed == pytest.approx(5)
    assert progress == pytest.approx([step / 50 for step in range(1, 51)])


def test_without_a_time_limit_progress_is_steps():
    _, progress = simulate(noisy(0.1, 0.5), limit=None, bound=20)
    assert progress == [step / 20 for step in range(1, 21)]


def test_time_takes_over_when_steps_are_too_slow():
    elapsed, progress = simulate(itertools.repeat(0.1), limit=10.0, bound=1000)
    assert 9.7 <= elapsed <= 10
    assert progress[-1] == 1
    assert progress[49] == pytest.approx(0.5, abs=0.02)


def test_one_step_is_always_taken():
    _, progress = simulate(itertools.repeat(5.0), limit=3.0, estimate=5.0)
    assert progress == [1.0]


def test_one_outlier_does_not_cost_the_last_seconds():
    times = StepTimes(1.0)
    for seconds in [1.0] * 10 + [50.0]:
        times.add(seconds)
    assert times.expected == 1.0
    assert times.slow == 2.0


def test_predictions_do_not_depend_on_when_they_are_asked_for():
    """They are kept until another step, or another estimate, changes them."""
    durations = [0.5, *np.random.default_rng(0).gamma(4.0, 0.025, 60)]
    asked = StepTimes(0.05, allowance=0.2)
    for count, seconds in enumerate(durations):
        for estimate in (0.05, 0.07):
            asked.estimate = estimate
            fresh = StepTimes(estimate, allowance=0.2)
            for each in durations[:count]:
                fresh.add(each)
            tried = asked.with_step(1.0)
            for name in ("slow", "expected", "worst", "spread"):
                assert getattr(asked, name) == getattr(fresh, name)
                assert getattr(tried, name) == getattr(fresh.with_step(1.0), name)
            assert asked.latest() == durations[:count][-32:]
        asked.add(seconds)


class Time:
    """A clock's time, set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


def test_segments_never_overlap_and_add_up():
    time = Time()
    clock = Clock(time)
    time.now = 1.0
    with clock.segment("train"):
        time.now = 3.0
        with clock.segment("validate"):
            time.now = 7.0
        time.now = 8.0
        assert clock.counted(("train", "validate")) == 7
    time.now = 20.0
    expected = {**dict.fromkeys(SEGMENTS, 0.0), "setup": 13.0, "train": 3.0, "validate": 4.0}
    assert clock.seconds() == expected


def test_a_clock_that_follows_the_time_of_day_counts_a_suspension():
    """The monotonic time of Linux stands still while a machine is suspended."""
    time, day = Time(), Time()
    clock = Clock(time)
    time.now = day.now = 1.0
    clock.follow(day)
    time.now, day.now = 3.0, 603.0
    clock.enter("train")
    assert clock.seconds()["setup"] == 603.0
    time.now, day.now = 4.0, 4.0  # somebody sets it back
    assert clock.seconds()["train"] == 1.0
    time.now, day.now = 4.5, 704.5
    assert clock.seconds()["train"] == 101.5


def test_segments_close_in_order():
    time = Time()
    clock = Clock(time)
    clock.enter("train")
    clock.enter("validate")
    with pytest.raises(ValueError, match="open segment is validate, not train"):
        clock.leave("train")
    clock.unwind()
    time.now = 3.0
    assert clock.seconds()["setup"] == 3.0, "none but the first is open"


def test_a_segment_lets_an_error_through_that_unwound_the_clock():
    time = Time()
    clock = Clock(time)

    def interrupted():
        with clock.segment("test"):
            clock.enter("validate")
            clock.unwind()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    time.now = 3.0
    assert clock.seconds()["setup"] == 3.0
    with clock.segment("test"):
        clock.enter("validate")
    time.now = 7.0
    assert clock.seconds()["setup"] == 7.0


def test_a_segment_closes_on_an_error():
    time = Time()
    clock = Clock(time)

    def failing():
        with clock.segment("train"):
            time.now = 2.0
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        failing()
    time.now = 5.0
    assert clock.seconds() == {**dict.fromkeys(SEGMENTS, 0.0), "train": 2.0, "setup": 3.0}


def test_the_reserve_follows_the_measurements():
    reserve = ScoringReserve(images=1000, image_seconds=0.01, saves=1, pacing=Pacing(reserve_factor=2.0))
    assert reserve.seconds == pytest.approx(2 * 10)
    reserve.update(save_seconds=5.0)
    assert reserve.seconds == pytest.approx(2 * 15)
    reserve.begin_seconds = 2.0
    assert reserve.seconds == pytest.approx(2 * 17)
    reserve.update(views=3.5)
    assert reserve.seconds == pytest.approx(2 * (17 + 25))
    reserve.update(view_seconds=0.008)
    assert reserve.seconds == pytest.approx(7 + 8 + 20), "views that can be left out are the margin of the rest"
    reserve.finish_seconds = 5.0
    assert reserve.seconds == reserve.least == pytest.approx(2 * 22), "and get none themselves"
    assert ScoringReserve().seconds == 0


def test_a_slow_first_checkpoint_keeps_a_bounded_time_for_the_next():
    reserve = ScoringReserve(saves=1, spread=6.0, most_margin=2.0)
    for seconds, kept in ((0.1, 0.6), (0.5, 2.5), (5.0, 7.0)):
        reserve.update(save_seconds=seconds)
        assert reserve.seconds == pytest.approx(kept)


def test_a_reserve_goes_on_with_the_measurements_of_a_checkpoint():
    measured = ScoringReserve(images=1000, image_seconds=0.01, views=18.0)
    measured.update(image_seconds=0.02, view_seconds=0.015, views=4.5, save_seconds=3.0)
    resumed = ScoringReserve(images=1000, image_seconds=0.01, views=18.0)
    resumed.update(**measured.state())
    assert resumed == measured


def test_the_start_of_the_process_is_part_of_the_setup():
    time = Time()
    clock = Clock(time, start_seconds=2.5)
    time.now = 1.0
    assert clock.seconds()["setup"] == clock.counted(SEGMENTS) == 3.5


def test_a_clock_counts_what_an_earlier_process_spent():
    time = Time()
    clock = Clock(time)
    clock.add({"train": 5.0, "setup": 1.0})
    with clock.segment("train"):
        time.now = 2.0
    assert clock.counted(("train",)) == 7
    assert clock.seconds()["setup"] == 1


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_steps_that_the_device_has_not_finished_count(monkeypatch, kind):
    """A host that is some steps ahead of its device ends so early that the device ends inside the budget."""
    time, device_seconds = Time(), 0.5
    device = SimpleNamespace(free_at=0.0)

    class Event:
        def record(self):
            self.done_at = device.free_at

        def query(self):
            return time.now >= self.done_at

        def synchronize(self):
            time.now = max(time.now, self.done_at)

    monkeypatch.setattr(getattr(torch, kind), "Event", Event)
    module = SimpleNamespace(device=torch.device(kind))
    trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=1, limit_val_batches=0)
    budget = TimeBudget(20.0, clock=Clock(time), step_seconds=device_seconds)
    budget.on_train_start(trainer, module)
    for index in itertools.count():
        budget.on_train_batch_start(trainer, module, (torch.zeros(1), None), index)
        time.now += 0.001  # the host starts a step
        device.free_at = max(device.free_at, time.now) + device_seconds
        budget.on_train_batch_end(trainer, module, None, (torch.zeros(1, 1), None), index)
        if budget.stop_reason:
            break
    assert 18.5 <= device.free_at <= 20
    assert time.now < device.free_at - 2 * device_seconds, "the host was ahead"


FACTOR = 1.2
PACING = Pacing(reserve_factor=FACTOR, unseen_factor=1.25, min_uncertain=0.25)


def train_then_score(images, score_seconds, views=None, uncertain=lambda now: 1.0):
    """Train for 100 s with steps of 0.1 s, with images to score after that; returns the time at which training ended.

    The benchmark measured 10 ms per image. `score_seconds` maps the time to the seconds per image at that time,
    `uncertain` to the share of the images that are uncertain.
    """
    time, views = Time(), views or Views()
    reserve = ScoringReserve(images=images, image_seconds=0.01, views=views.count, pacing=PACING)
    budget = TimeBudget(
        100.0, None, Clock(time), ("train", "test"), step_seconds=0.1, reserve=reserve, views=views, pacing=PACING
    )

    class Module(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            time.now += score_seconds(time.now) * len(images)
            sure = torch.arange(len(images)) >= uncertain(time.now) * len(images)
            return 100.0 * torch.stack([sure, torch.zeros_like(sure)], 1)

    module, batch = Module(), (torch.zeros(1, 10, 1), None)
    precision = SimpleNamespace(forward_context=contextlib.nullcontext)
    trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=1, limit_val_batches=0, precision_plugin=precision)
    budget.on_train_start(trainer, module)
    for index in itertools.count():
        budget.on_train_batch_start(trainer, module, batch, index)
        time.now += 0.1
        budget.decide_before_update(trainer, module)
        budget.on_train_batch_end(trainer, module, None, batch, index)
        assert module.training
        if budget.stop_reason:
            break
    budget.on_train_end(trainer, module)
    assert budget.progress == 1
    return time.now


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.02], ids=lambda value: f"{value} s an image")
def test_the_time_kept_for_scoring_is_what_a_cpu_takes_now(seconds):
    ended = train_then_score(1000, lambda now: seconds)
    assert 95 < ended + FACTOR * 1000 * seconds <= 100


def test_the_slowest_measurement_decides_how_much_time_is_kept_for_scoring():
    """A machine that is slow for a while, and fast when the run ends, may be slow again while it scores."""
    assert train_then_score(500, lambda now: 0.005) > 96
    assert 85 < train_then_score(500, lambda now: 0.02 if 30 < now < 50 else 0.005) <= 100 - 500 * 0.02


def test_one_pause_while_scoring_does_not_end_the_training():
    for paused in (0, 4):
        calls = itertools.count()
        assert train_then_score(500, lambda now, at=paused, calls=calls: 0.5 if next(calls) == at else 0.005) > 90


def test_the_median_measurement_decides_how_much_time_is_kept_for_views_that_can_be_left_out():
    """And as many seconds for the first view, unless it needs more should it be as slow as it ever was."""
    ended = train_then_score(200, lambda now: 0.02 if 30 < now < 50 else 0.005, Views(flip=True, shift=1))
    assert ended == pytest.approx(100 - 6 * 200 * 0.005, abs=0.7)
    ended = train_then_score(200, lambda now: 0.04 if 30 < now < 50 else 0.005, Views(flip=True, shift=1))
    assert ended == pytest.approx(100 - 1.2 * 200 * 0.04, abs=0.7)


def test_time_is_kept_for_the_views_of_the_images_that_are_uncertain_at_last():
    """And for some more, as these are training images, which the network may have memorised."""
    views = Views(flip=True, shift=1, neighbors=True, confidence_threshold=0.9)
    for uncertain, kept in ((0.6, 0.75), (1.0, 1.0), (0.0, 0.25)):
        ended = train_then_score(200, lambda now: 0.0025, views, lambda now, last=uncertain: 0.9 if now < 50 else last)
        assert ended == pytest.approx(100 - 200 * 0.0025 * (1 + 17 * kept), abs=0.4)


def test_a_tenth_of_the_budget_at_most_is_kept_for_views_that_can_be_left_out():
    """On a machine that turns out many times slower than its benchmark, the time is for training."""
    views = Views(flip=True, shift=1, neighbors=True)
    assert train_then_score(200, lambda now: 0.03, views) == pytest.approx(100 - 200 * 0.03 - 10, abs=0.7)
