"""Callbacks of a user's own: made of the config, kept in the checkpoint, recorded with the run."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from harness import RUN, STEPS, only_run, stop_at

from fastconv.callbacks import Checkpoints, TimeBudget
from fastconv.system.errors import InputError, SharedError

COUNT = '''
import lightning as L


class Count(L.Callback):
    """Counts the optimizer steps of a run over all its processes, and leaves the number in a file."""

    def __init__(self, file, start=0):
        self.file, self.steps = file, start

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1

    def on_test_end(self, trainer, pl_module):
        with open(self.file, "w") as file:
            file.write(str(self.steps))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


class Nothing:
    pass
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module `mypkg` of a user's own, importable from the working directory."""
    (tmp_path / "mypkg.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)


def test_a_callback_goes_on_with_its_state_after_a_kill(command, tmp_path, monkeypatch):
    given = (*RUN, "validate.on=none", "callbacks=[{_target_: mypkg.Count, file: steps.txt, start: 100}]")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 10)
        assert command("train", *given).code != 0
    assert not (tmp_path / "steps.txt").exists()
    run = only_run(tmp_path)
    assert "add trust=true" in command("train", f"resume={run}").err
    ended = command("train", f"resume={run}", "trust=true")
    assert ended.code == 0, ended.err
    assert int((tmp_path / "steps.txt").read_text()) == 100 + STEPS
    wanted = [{"_target_": "mypkg.Count", "file": "steps.txt", "start": 100}]
    assert yaml.safe_load((run / "config.yaml").read_text())["callbacks"] == wanted
    assert json.loads((run / "results.json").read_text())["hparams"]["callbacks"] == wanted


@pytest.mark.parametrize(
    ("callbacks", "line"),
    [
        ("[{_target_: mypkg.Nothing}]", "callbacks.0._target_=mypkg.Nothing is not a Lightning callback"),
        ("[{_target_: mypkg.Count}]", "callbacks.0._target_=mypkg.Count"),
        ("[{_target_: mypkg.Other}]", "callbacks.0._target_=mypkg.Other"),
        ("[{target: mypkg.Count}]", "callbacks.0="),
        ("[3]", "callbacks.0=3 is not possible"),
        ("[{_target_: mypkg.Count, file: a}, {_target_: mypkg.Count, file: b}]", "give each a state_key of its own"),
    ],
)
def test_what_is_no_callback_gets_one_line(command, tmp_path, callbacks, line):
    ended = command("train", *RUN, f"callbacks={callbacks}")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert line in ended.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "best", [0.5, [1, {"a": torch.zeros(2)}], np.float64(0.5), np.zeros(2), {Path("a")}, bytearray(1)]
)
def test_a_state_that_no_checkpoint_can_hold_is_refused(best):
    class Best(L.Callback):
        def state_dict(self):
            return {"best": best}

    callback, is_plain = Best(), isinstance(best, float | list) and not isinstance(best, np.generic)
    checkpoint = {"callbacks": {callback.state_key: callback.state_dict()}}
    checkpoints = Checkpoints(None, None, TimeBudget(None, 1))
    trainer = SimpleNamespace(callbacks=[callback, checkpoints], world_size=1)
    with nullcontext() if is_plain else pytest.raises(InputError, match=r"^the state_dict of Best holds more than"):
        checkpoints.on_save_checkpoint(trainer, None, checkpoint)


def test_a_state_that_only_the_first_rank_has_ends_all_ranks(monkeypatch):
    """Else the others would wait for it after the checkpoint."""

    class Best(L.Callback):
        best = None

        def state_dict(self):
            return {"best": self.best}

    told, checkpoints = [], Checkpoints(None, None, TimeBudget(None, 1))
    broadcast = SimpleNamespace(broadcast=lambda errors: told.append(errors) or told[0])
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        callback = Best()
        callback.best = None if rank else np.float64(0.5)
        trainer = SimpleNamespace(callbacks=[callback, checkpoints], world_size=2, strategy=broadcast)
        with pytest.raises(SharedError, match=r"^the state_dict of Best holds more than"):
            checkpoints.on_save_checkpoint(trainer, None, {"callbacks": {callback.state_key: callback.state_dict()}})
    assert len(told) == 2
