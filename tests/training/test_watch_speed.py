"""What a run does with the speed of its own steps, on a simulated machine."""

from types import SimpleNamespace

import pytest
import torch

from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.pacing import StepTimes
from fastconv.training.callbacks import WatchSpeed


@pytest.fixture
def threads():
    """Two threads for the test, as many as it likes afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(watch, budget, seconds_of, steps):
    """Train: `seconds_of` gives the seconds of a step by its number. Returns the numbers of threads of the steps."""
    trainer, module = SimpleNamespace(), SimpleNamespace(device=torch.device("cpu"))
    used = []
    for step in range(steps):
        used.append(torch.get_num_threads())
        budget.times.add(seconds_of(step))
        budget.progress = step / steps
        watch.on_train_batch_end(trainer, module, None, None, step)
    watch.on_train_end(trainer, module)
    return used


@pytest.fixture
def budget():
    return SimpleNamespace(times=StepTimes(0.1), seconds_left=lambda: 1000.0, progress=0.0)


def test_fewer_threads_compute_from_where_steps_become_slow(monkeypatch, threads, budget):
    monkeypatch.setattr("fastconv.training.callbacks.watch_speed.default_threads", lambda: 2)
    watch = WatchSpeed(budget, SpeedProfile(0.1, 0.0, 1.0), threads=2, may_adjust=True)
    used = run(watch, budget, lambda step: 0.1 if step < 100 or torch.get_num_threads() == 1 else 0.5, 300)
    assert set(used[:100]) == {2}
    assert used[120:].count(1) > 0.9 * 180
    assert (watch.threads, torch.get_num_threads()) == ([2, 1], 1)


def test_a_number_that_is_set_stays(threads, budget):
    watch = WatchSpeed(budget, SpeedProfile(0.1, 0.0, 1.0), threads=2, may_adjust=False)
    assert set(run(watch, budget, lambda step: 0.1 + 0.01 * step, 200)) == {2}
    assert watch.threads == [2]


@pytest.mark.parametrize(
    ("seconds", "steps", "stays"),
    [(0.1, 20, True), (0.15, 20, True), (1.0, 20, False), (0.01, 20, False), (9.0, 2, True)],
)
def test_a_benchmark_that_the_steps_contradict_is_forgotten(tmp_path, budget, seconds, steps, stays):
    """It said 0.1 s; after two steps nothing is known."""
    path = tmp_path / "profile.json"
    path.touch()
    watch = WatchSpeed(budget, SpeedProfile(0.1, 0.0, 1.0, path=str(path)), threads=1, may_adjust=False)
    run(watch, budget, lambda step: seconds, steps)
    assert path.exists() == stays
