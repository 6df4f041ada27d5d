"""What ends a run on the first rank alone, before training, is told to the ranks that wait for it."""

import json
from contextlib import closing, nullcontext
from types import SimpleNamespace

import pytest
from harness import SMALL
from omegaconf import OmegaConf

from fastconv.budget.autotune.choose import Choice
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.clock import Clock
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.config.resume import job_of_sweep
from fastconv.config.schema import Config
from fastconv.runs.folder import RunningElsewhereError
from fastconv.system import distributed
from fastconv.system.distributed import all_know
from fastconv.system.errors import InputError
from fastconv.training import run as runs
from fastconv.training.plan import plan_run


@pytest.fixture
def told(monkeypatch):
    """What the first of several ranks tells the others, by name."""
    found = {}
    store = SimpleNamespace(set=lambda name, value: found.update({name: json.loads(value)}))
    monkeypatch.setattr(distributed, "store", lambda: store)
    monkeypatch.setattr(distributed, "started_together", lambda: True)
    return found


def test_a_job_that_another_process_has(tmp_path, told):
    """So that these ranks leave it to that process together, and go on with the next job."""
    config = Config()
    with closing(job_of_sweep(config, tmp_path / "0")), pytest.raises(RunningElsewhereError) as error:
        runs.train(config, None, [], Clock(), job=tmp_path / "0")
    assert all_know(error.value)
    assert told["finished"] == {"failed": str(error.value)}


def test_a_stream_that_cannot_be_written(told, monkeypatch):
    def fail(*_):
        raise InputError("no space on the disk")

    config = Config()
    monkeypatch.setattr(runs, "images_to_go_on_with", lambda config, data, *_: data)
    monkeypatch.setattr(runs, "plan_run", lambda *_: SimpleNamespace(config=config))
    monkeypatch.setattr(runs, "plan_table", lambda *_: "")
    monkeypatch.setattr(runs, "stream_in_use", lambda run: nullcontext())
    monkeypatch.setattr(runs, "precompute", fail)
    console = SimpleNamespace(print=lambda *_: None)
    with pytest.raises(InputError) as error:
        runs.carry_out(Choice(config, None, {}), None, [], Clock(), console, None)
    assert all_know(error.value)
    assert told["written"] == {"failed": "no space on the disk"}


def test_how_many_steps_are_expected(told, digits_root, tmp_path, monkeypatch):
    """By it each rank knows at which steps a row of the curves is due, in which all of them take part."""

    def planned(spent):
        overrides = ["dataset=digits", *SMALL, "budget.seconds=90", "budget.counts=[setup,train]", "stream=online",
                     "schedule.max_epochs=null"]  # fmt: skip
        config, clock = OmegaConf.to_object(compose("train", overrides)), Clock(lambda: 0.0, start_seconds=spent)
        return plan_run(config, check_data(config), clock, speed).plan

    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastconv.training.plan.check_world", lambda *_: None)  # this process has no launcher
    speed = SpeedProfile(step_seconds=0.01, score_seconds=0.0001, memory_mb=100.0)
    first = planned(10.0)
    assert first.steps != planned(30.0).steps, "clocks decide"
    first = planned(10.0)
    monkeypatch.setattr("fastconv.system.distributed.is_first_rank", lambda: False)
    monkeypatch.setattr("fastconv.system.distributed.wait_for", lambda name: json.dumps(told[name]))
    second = planned(30.0)
    assert (second.steps, second.epochs, second.seconds) == (first.steps, first.epochs, first.seconds)
