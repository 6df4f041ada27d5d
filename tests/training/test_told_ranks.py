"""What ends a run on the first rank alone, before training, is told to the ranks that wait for it."""

import json
from contextlib import closing, nullcontext
from types import SimpleNamespace

import pytest

from fastconv.budget.autotune.choose import Choice
from fastconv.budget.clock import Clock
from fastconv.config.resume import job_of_sweep
from fastconv.config.schema import Config
from fastconv.runs.folder import RunningElsewhereError
from fastconv.system import distributed
from fastconv.system.distributed import all_know
from fastconv.system.errors import InputError
from fastconv.training import run as runs


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
