"""Whole runs on simulated machines: what the budget counts at the end, and where the schedule ends."""

import contextlib
import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastconv.budget.clock import Clock
from fastconv.budget.pacing import PACING
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.callbacks import TimeBudget
from fastconv.config.schema import SEGMENTS
from fastconv.models.resizing import Resizing
from fastconv.models.tta import Views, logits_in_time
from fastconv.training.callbacks import ResizeImages

BATCH, MICROBATCH = 500, 125
IMAGES, SETUP = 5000, 2.0
FEW_VIEWS, MANY_VIEWS = Views(shift=1), Views(flip=True, shift=1, neighbors=True, confidence_threshold=0.9)


@dataclass
class Machine:
    """A machine on which everything takes some times as long as on a quiet one.

    Args:
        step, image: seconds of a step and of scoring an image on the quiet machine.
        factor: how many times as long something takes that begins at a time, in seconds.
        stall: when it stops for a while, and for how many seconds.
        uncertain: share of the images that get further views.
        resizing: which training images are small; a step with small ones takes that much less time.
    """

    step: float = 0.06
    image: float = 2e-4
    factor: object = lambda now: 1.0
    stall: tuple[float, float] = (1e9, 0.0)
    uncertain: float = 0.3
    resizing: Resizing = field(default_factory=Resizing)
    now: float = 0.0
    stalled: bool = field(default=False, init=False)

    def work(self, seconds):
        self.now += seconds * self.factor(self.now)
        if self.now >= self.stall[0] and not self.stalled:
            self.stalled, self.now = True, self.now + self.stall[1]

    def __call__(self):
        return self.now

    def logits(self, images):
        self.work(self.image * len(images))
        sure = torch.arange(len(images)) >= self.uncertain * len(images)
        return 9.0 * torch.stack([sure, torch.zeros_like(sure)], 1)


def parts_of(machine, every=0):
    """A Trainer with a validation after each `every` steps, and its module on a machine."""
    module = type("Module", (), {"__call__": lambda self, images: machine.logits(images)})()
    module.device, module.eval, module.modules = torch.device("cpu"), lambda: None, lambda: ()
    precision = SimpleNamespace(forward_context=contextlib.nullcontext)
    trainer = SimpleNamespace(
        accumulate_grad_batches=1, world_size=1, limit_val_batches=bool(every), precision_plugin=precision,
        sanity_checking=False,
    )  # fmt: skip
    return trainer, module


def steps_of(budget, machine, every=0, after=lambda: None):
    """Train to the end of the budget, with a checkpoint after the first step as in a run, and a validation after each
    `every` steps, if there is time for it. Other callbacks do `after` at the end of each step."""
    trainer, module = parts_of(machine, every)
    budget.on_train_start(trainer, module)
    resize, batch = ResizeImages(budget, machine.resizing), (torch.zeros(1, MICROBATCH, 1), None)
    for index in itertools.count():
        budget.on_train_batch_start(trainer, module, batch, index)
        resize.on_train_batch_start(trainer, module, batch, index)
        machine.work(machine.step * module.side_share**2)
        budget.decide_before_update(trainer, module)
        budget.on_train_batch_end(trainer, module, None, batch, index)
        if index == 0:
            save(budget, machine)
        after()
        if budget.stop_reason:
            break
        if every and (index + 1) % every == 0 and trainer.limit_val_batches:
            budget.on_validation_start(trainer, module)
            machine.work(machine.image * budget.validate_images)
            budget.on_validation_end(trainer, module)
    budget.on_train_end(trainer, module)


def save(budget, machine, seconds=0.05):
    with budget.clock.segment("checkpoint"):
        before = machine.now
        machine.work(seconds)
    budget.reserve.update(save_seconds=machine.now - before)


def run(machine, monkeypatch, seconds, views, images=IMAGES, setup=SETUP, benchmark=1.0):
    """A run that counts everything, like experiment=best; returns its budget, which has ended.

    `benchmark` is how many times as long as on a quiet machine everything took in the benchmark.
    """
    reserve = ScoringReserve(
        images,
        image_seconds=machine.image * benchmark,
        view_seconds=machine.image * benchmark,
        views=views.count,
        begin_seconds=0.05,
        finish_seconds=PACING.finish_seconds,
        saves=1,
    )
    clock = Clock(machine, start_seconds=setup)
    step_seconds = machine.step * benchmark
    budget = TimeBudget(seconds, None, clock, SEGMENTS, step_seconds, reserve=reserve, views=views)
    steps_of(budget, machine)
    save(budget, machine)
    monkeypatch.setattr("fastconv.models.tta.time.perf_counter", machine)
    with clock.segment("test"):
        machine.work(0.03)
        reserve.start_scoring(images, budget.seconds_left)
        plain = []
        for _ in range(images // BATCH):
            if not reserve.has_time(BATCH):
                break
            before = machine.now
            plain.append(machine.logits(torch.zeros(BATCH, 1, 4, 4)))
            reserve.scored(BATCH, machine.now - before)
        zeros, sets = torch.zeros(BATCH, 1, 4, 4), [views] if views.count > 1 else []
        logits_in_time(machine.logits, lambda rows: zeros[: len(rows)], torch.cat(plain), sets, reserve, 500)
    machine.work(0.05)  # the digest of the weights and the results
    return budget


def machines(count):
    """Random machines: steps of 5 to 500 ms, scoring of an image 5 to 50 times as fast as training on it."""
    generator = np.random.default_rng(0)
    for number in range(count):
        step = 10 ** generator.uniform(-1.5, -0.3)
        image = step / MICROBATCH / 10 ** generator.uniform(0.7, 1.7)
        seconds = float(generator.choice([12, 20, 30, 40]))
        if step * 25 > seconds:  # such a network is not chosen for so short a budget
            step /= 4
        yield Machine(step, min(image, 0.02 * seconds / IMAGES)), seconds, np.random.default_rng(number)


VIEWS = pytest.mark.parametrize("views", [Views(), FEW_VIEWS, MANY_VIEWS], ids=["no views", "3 views", "18 views"])


@VIEWS
def test_a_quiet_machine_uses_97_percent_and_never_more_than_all(views, monkeypatch):
    for machine, seconds, generator in machines(12):
        machine.factor = lambda now, draw=generator: 1 + abs(draw.normal(0, 0.02))
        budget = run(machine, monkeypatch, seconds, views)
        assert budget.progress == 1
        step = machine.step if machine.step > 0.015 * seconds else 0.0
        assert (0.97 if seconds >= 30 else 0.95) * seconds - step <= budget.elapsed() <= seconds, (machine, seconds)


def test_with_small_images_first_more_of_them_fit_into_the_same_time(monkeypatch):
    whole, small = (run(Machine(resizing=Resizing(until)), monkeypatch, 30.0, Views()) for until in (0.0, 0.4))
    assert small.progress == 1
    assert 0.97 * 30 <= small.elapsed() <= 30
    assert small.steps / whole.steps == pytest.approx(Resizing(0.4).gain, rel=0.02)
    assert small.worked == pytest.approx(whole.steps, rel=0.02)


@VIEWS
def test_times_that_fluctuate_up_to_six_times_never_break_the_budget(views, monkeypatch):
    for machine, seconds, generator in machines(15):
        machine.factor = lambda now, draw=generator: draw.uniform(1, 6)
        budget = run(machine, monkeypatch, seconds, views)
        assert budget.progress == 1
        assert budget.elapsed() <= seconds, (machine, seconds)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@VIEWS
def test_a_machine_whose_speed_changes_at_any_moment(views, factor, monkeypatch):
    """Once it has measured the new speed, a run is on time. Before that, what cannot be left out may take longer."""
    for machine, seconds, generator in machines(10):
        at = generator.uniform(0, 1) * seconds
        machine.factor = lambda now, at=at: factor if now > at - SETUP else 1.0
        budget = run(machine, monkeypatch, seconds, views)
        is_late = at > 0.9 * seconds - 5 * machine.step
        beyond = (factor - 1) * (IMAGES * machine.image + 0.3 + 2 * machine.step) if is_late else 0.0
        assert budget.progress == 1
        assert budget.elapsed() <= seconds + max(0.0, beyond), (machine, seconds, at)


@VIEWS
def test_a_stall_at_any_moment_costs_at_most_itself(views, monkeypatch):
    for machine, seconds, generator in machines(15):
        machine.stall = (generator.uniform(0, 1) * seconds, generator.uniform(1, 3))
        budget = run(machine, monkeypatch, seconds, views)
        at, length = machine.stall
        assert budget.elapsed() <= (seconds if at + length < 0.85 * seconds - 2 else seconds + length)
        assert budget.progress == 1


def test_a_start_that_took_nearly_everything_still_leaves_an_end(monkeypatch):
    budget = run(Machine(), monkeypatch, 10.0, FEW_VIEWS, images=1000, setup=8.0)
    assert budget.progress == 1
    assert 9.5 <= budget.elapsed() <= 10


@pytest.mark.parametrize("benchmark", [0.1, 10.0, 1000.0])
@VIEWS
def test_a_benchmark_that_was_wrong_costs_nothing(views, benchmark, monkeypatch):
    for machine, seconds, _ in machines(6):
        budget = run(machine, monkeypatch, seconds, views, benchmark=benchmark)
        assert budget.progress == 1
        assert 0.9 * seconds - 2 * machine.step <= budget.elapsed() <= seconds, (machine, seconds)


@VIEWS
def test_a_machine_that_was_busy_when_scoring_was_first_measured_trains_on(views, monkeypatch):
    """The first measurements ask for more time than there is, but the machine is quiet a moment later."""
    machine = Machine(step=0.1, image=2.5e-4)
    machine.factor = lambda now: 15.0 if now < 6 else 1.0
    budget = run(machine, monkeypatch, 30.0, views, images=10_000)
    assert budget.progress == 1
    assert budget.elapsed() <= 30
    assert budget.steps > 150


@pytest.mark.parametrize("benchmark", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("fluctuation", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [0.3, 0.8, 1.5, 2.2, 4.0, 7.0])
def test_few_steps_end_with_the_schedule_too(steps, fluctuation, benchmark, monkeypatch):
    """However long the only step takes, and whatever the benchmark said of it."""
    for seed in range(4):
        generator, step = np.random.default_rng(seed), (20 - SETUP) / steps
        machine = Machine(step, image=step / MICROBATCH / 10)
        machine.factor = lambda now, draw=generator: draw.uniform(1, fluctuation)
        budget = run(machine, monkeypatch, 20.0, Views(), images=BATCH, benchmark=benchmark)
        assert budget.progress == 1
        beyond = (fluctuation - 1) * machine.step + fluctuation * (
            BATCH * machine.image + 0.2
        )  # the last step, the end
        assert budget.steps == 1 or budget.elapsed() <= 20 + beyond, (budget.steps, budget.elapsed())


def test_the_machine_pauses_in_the_first_step_and_the_run_goes_on(monkeypatch):
    machine = Machine(stall=(SETUP, 10.0))
    budget = run(machine, monkeypatch, 20.0, Views())
    assert budget.progress == 1
    assert budget.steps > 50
    assert budget.elapsed() <= 20


def test_beside_much_other_work_the_last_files_take_as_long_as_the_checkpoint(monkeypatch):
    """Steps of 7 to 15 s, few of which fit, and everything else 15 times as long as on a quiet machine too: the time
    after the last image is then not what it was measured as, and further views would have used up all but that."""
    over = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        machine = Machine(step=generator.uniform(0.5, 1.0), image=4e-4)
        machine.factor = lambda now, draw=generator: 15 * draw.uniform(0.95, 1.05)
        budget = run(machine, monkeypatch, 100.0, MANY_VIEWS, benchmark=15.0)
        assert budget.progress == 1
        assert 3 <= budget.steps <= 8
        over.append(budget.elapsed() - 100)
    assert max(over) <= 0
    assert np.mean(over) > -3, "the time is used"


@pytest.mark.parametrize("factor", [2.0, 10.0])
@pytest.mark.parametrize("every", [7, 25, 100])
def test_a_machine_that_becomes_slow_begins_no_validation_that_would_end_late(every, factor):
    """The last validation was short, but the steps since then say how long the next one would take."""
    validated = 0.0
    for at in np.linspace(5, 85, 41):
        machine = Machine(step=0.1, image=2e-3, factor=lambda now, at=at: factor if now > at else 1.0)
        budget = TimeBudget(100.0, None, Clock(machine), step_seconds=0.1, validate_images=2000)
        steps_of(budget, machine, every)
        assert budget.progress == 1
        # It may become slow in a validation, or in the last step before one.
        assert budget.elapsed() <= max(100.0, at + factor * (machine.image * 2000 + 2 * machine.step)), at
        validated += budget.clock.seconds()["validate"]
    assert validated > 0


@pytest.mark.parametrize("every", [0, 300])
@pytest.mark.parametrize("factor", [2.0, 6.0])
def test_a_machine_that_becomes_slow_keeps_more_for_scoring_also_with_validations(every, factor):
    """As with `budget.counts=[train,validate]`, by which held-out images are scored without a limit at the end."""
    for at in np.linspace(5, 75, 15):
        machine = Machine(step=0.1, image=5e-4, factor=lambda now, at=at: factor if now > at else 1.0)
        reserve = ScoringReserve(5000, image_seconds=5e-4)
        budget = TimeBudget(
            100.0, None, Clock(machine), step_seconds=0.1, validate_images=2000 if every else 0, reserve=reserve
        )
        steps_of(budget, machine, every)
        with budget.clock.segment("validate"):
            machine.work(5000 * machine.image)
        assert budget.progress == 1
        assert 90 <= budget.elapsed() <= 100, at


def test_what_other_callbacks_do_after_the_last_step_is_in_the_budget_too():
    for seconds in np.linspace(0.3, 2, 18):
        machine = Machine(step=0.1)
        budget = TimeBudget(20.0, None, Clock(machine), step_seconds=0.1)
        steps_of(budget, machine, after=lambda machine=machine, seconds=seconds: machine.work(seconds))
        assert budget.progress == 1
        assert 20 - 3 * (0.1 + seconds) <= budget.elapsed() <= 20, seconds


@pytest.mark.parametrize("seconds", [0.3, 4.0])
def test_checkpoints_are_written_as_long_as_there_is_time_for_them(seconds):
    """As to a slow disk: after each step, and the last one in the time that is kept for it."""
    machine, saved = Machine(step=0.1), []
    reserve = ScoringReserve(saves=1, save_seconds=seconds)
    budget = TimeBudget(30.0, None, Clock(machine), ("train", "checkpoint"), step_seconds=0.1, reserve=reserve)

    def save_in_time():
        if not budget.stop_reason and budget.has_time_to_save():
            saved.append(machine.now)
            save(budget, machine, seconds)

    steps_of(budget, machine, after=save_in_time)
    save(budget, machine, seconds)
    assert budget.progress == 1
    assert 30 - 2.5 * seconds <= budget.elapsed() <= 30
    assert len(saved) >= 20 / (seconds + 0.1)


def test_a_resumed_run_decides_as_if_it_had_not_been_stopped():
    """On a machine whose steps become ever longer, of a budget that counts what came before the first one too."""

    def begin(now):
        machine = Machine(step=0.1, image=0.0, factor=lambda now: 1 + now / 20, now=now)
        return machine, TimeBudget(40.0, None, Clock(machine), SEGMENTS, step_seconds=0.1)

    def decided(machine, budget, steps):
        (trainer, module), batch, found = parts_of(machine), (torch.zeros(1, MICROBATCH, 1), None), []
        budget.on_train_start(trainer, module)
        for index in range(steps):
            budget.on_train_batch_start(trainer, module, batch, index)
            expected = budget.progress
            machine.work(machine.step)
            budget.decide_before_update(trainer, module)
            budget.on_train_batch_end(trainer, module, None, batch, index)
            found.append((expected, budget.progress, budget.step.last))
        budget.on_train_end(trainer, module)
        return found

    machine, budget = begin(0.0)
    machine.now = 9.0  # setup
    whole = decided(machine, budget, 60)
    machine, first = begin(0.0)
    machine.now = 9.0
    found = decided(machine, first, 25)
    machine, second = begin(machine.now)
    second.clock.add(first.clock.seconds())
    second.load_state_dict(first.state_dict())
    found += decided(machine, second, 35)
    np.testing.assert_allclose(found, whole, rtol=1e-9)
    assert 0.1 < whole[24][1] < 0.2


@pytest.mark.parametrize("step", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("until", [65, 70, 75])
def test_a_run_that_goes_on_late_keeps_the_time_for_scoring(step, until):
    """As it was measured before it was stopped: few of its long steps are left to measure it in."""

    def begin(now):
        machine = Machine(step, image=1.6e-3, now=now)
        reserve = ScoringReserve(10_000, image_seconds=machine.image)
        return machine, TimeBudget(100.0, None, Clock(machine), ("train", "test"), step, reserve=reserve)

    def stop():
        if machine.now > until:
            raise KeyboardInterrupt

    machine, first = begin(0.0)
    with pytest.raises(KeyboardInterrupt):
        steps_of(first, machine, after=stop)
    first.on_exception()
    machine, second = begin(machine.now)
    second.clock.add(first.clock.seconds())
    second.load_state_dict(first.state_dict())
    steps_of(second, machine)
    assert second.progress == 1
    assert 76 <= second.elapsed() <= 100 - 10_000 * machine.image


def test_a_validation_does_not_count_the_steps_before_it(monkeypatch):
    """A GPU is some steps behind the host when a validation begins, and has not finished it when the host has."""
    now, queued = 0.0, 0.0

    def work(host, device):
        nonlocal now, queued
        now, queued = now + host, queued + device

    def synchronize(device):
        nonlocal now, queued
        now, queued = now + queued, 0.0

    monkeypatch.setattr("fastconv.training.callbacks.time_budget.synchronize", synchronize)
    monkeypatch.setattr("fastconv.budget.steps_ahead.recorded_event", lambda device: None)
    budget = TimeBudget(None, 10, Clock(lambda: now), ("train", "validate"), 0.1, validate_images=10)
    module = SimpleNamespace(device=torch.device("cuda"))
    trainer = SimpleNamespace(
        accumulate_grad_batches=1, world_size=1, limit_val_batches=1, should_stop=False, sanity_checking=False
    )
    budget.on_train_start(trainer, module)
    for index in range(5):
        if index == 4:
            budget.on_validation_start(trainer, module)
            work(host=0.25, device=0.5)
            budget.on_validation_end(trainer, module)
        batch = (torch.zeros(1, 2, 1), None)
        budget.on_train_batch_start(trainer, module, batch, index)
        work(host=0.125, device=0.5)
        budget.on_train_batch_end(trainer, module, None, batch, index)
    budget.on_train_end(trainer, module)
    seconds = budget.clock.seconds()
    assert (seconds["train"], seconds["validate"]) == (5 * 0.625, 0.75)
    assert budget.reserve.image_seconds == 0.075
    assert budget.times.latest() == [0.125] * 5, "of no step is it the time"


def test_frozen_parts_of_a_network_stay_in_evaluation_after_scoring_is_timed():
    machine, scored = Machine(), []
    trainer, _ = parts_of(machine)
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(1).eval(), torch.nn.Linear(1, 2))
    network.device = torch.device("cpu")
    network.register_forward_hook(lambda *_: scored.append(network.training))
    budget = TimeBudget(10.0, None, Clock(machine), reserve=ScoringReserve(IMAGES))
    budget.on_train_start(trainer, network)
    budget.on_train_batch_start(trainer, network, (torch.zeros(1, MICROBATCH, 1), None), 0)
    machine.work(machine.step)
    budget.decide_before_update(trainer, network)
    assert scored == [False]
    assert [part.training for part in network.modules()] == [True, False, True]
