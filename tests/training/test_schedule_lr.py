"""The learning rate of a run's updates: it follows the time that each step turned out to take."""

import pytest
import torch
from harness import SMALL, only_run

from fastconv.runs.results import Results
from fastconv.training.module import ImageClassifier

GIVEN = ("dataset=digits", *SMALL, "schedule.max_epochs=null", "budget.seconds=20", "validate.on=none", "stream=online")


@pytest.fixture
def rates(monkeypatch):
    """The learning rates with which torch updated the weights, one for each step."""
    used, update, start = [], torch.optim.SGD.step, ImageClassifier.on_train_start

    def step(self, closure=None):
        used.append(self.param_groups[0]["lr"])
        return update(self, closure)

    def begin(self):
        used.clear()  # a benchmark's
        start(self)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(ImageClassifier, "on_train_start", begin)
    return used


@pytest.mark.parametrize(("seconds", "steps"), [(30.0, 1), (15.0, 1), (6.0, 2), (0.4, None)])
def test_the_last_update_is_at_the_end_of_the_schedule(
    command, tmp_path, monkeypatch, simulated_time, rates, seconds, steps
):
    def slower(name, more):
        method = getattr(ImageClassifier, name)

        def slow(self, *given):
            simulated_time.seconds += more
            return method(self, *given)

        monkeypatch.setattr(ImageClassifier, name, slow)

    slower("training_step", seconds)
    slower("forward", seconds / 6)
    ended = command("train", *GIVEN)
    assert ended.code == 0, ended.err
    results = Results.read(only_run(tmp_path))
    assert results.steps == len(rates) == (steps or results.steps)
    assert steps or results.steps > 40
    assert rates[-1] == results.final_lr * 0.4 < 1e-4
    assert results.seconds_counted <= 20 or steps == 1
