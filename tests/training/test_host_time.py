"""What the host does for a step. It is counted, not timed: a count does not depend on how busy the machine is."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch
from bare_loop import count_calls, stubbed_network
from harness import RUN, SMALL, only_run, same_weights
from rich.console import Console
from torch import nn

from fastconv.budget.benchmark import SpeedProfile
from fastconv.training.callbacks import BudgetProgressBar
from fastconv.training.module import ImageClassifier


@pytest.mark.parametrize(("every", "most"), [(1000, 130), (1, 185)], ids=["a step", "a step with a row of the curves"])
def test_a_step_calls_few_functions(digits_here, every, most):
    """Two parts, and a network that computes next to nothing: Python functions beside those of the bare loop.

    Some 35 of them are Lightning's.
    """
    given = ["dataset=digits", *SMALL, "checkpoint.every=null", "stream=online", "figures=false"]
    with stubbed_network():
        found = count_calls(given, steps=21, warm_up=5, every=every)
    assert found["fastconv"] - found["bare loop"] <= most


def test_a_plain_attribute_can_become_a_part_of_the_network():
    """Plain ones are set directly, and all others as torch sets them."""
    module = ImageClassifier("davidnet", {"width": 4}, (8, 8, 1), ("a", "b"), (0.5,), (0.5,))
    module.side_share = 0.5
    assert module.__dict__["side_share"] == module.side_share == 0.5
    module.side_share = nn.Linear(1, 1)
    assert "side_share" not in module.__dict__
    assert "side_share.weight" in module.state_dict()
    with pytest.raises(TypeError, match="as child module"):
        module.model = "davidnet"
    with pytest.raises(TypeError, match="as buffer"):
        module.train_sums = 0.0


POISON = '''
import lightning as L


class Poison(L.Callback):
    """Overwrites each batch after its step."""

    steps = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for part in batch:
            part.fill_(1)
        Poison.steps += 1
'''


def test_a_batch_is_no_longer_needed_after_its_step(command, tmp_path, monkeypatch):
    """Of any stream: the weights are those of a run whose batches stay."""
    (tmp_path / "poisoning.py").write_text(POISON)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "poisoning", raising=False)
    given = (*RUN[:-1], "validate.on=none", "schedule.max_epochs=0.3")
    assert command("train", *given, "stream=online", "outputs=plain").code == 0
    streams = ("online", "precomputed", "device")
    for stream in streams:
        poisoned = "callbacks=[{_target_: poisoning.Poison}]"
        ended = command("train", *given, f"stream={stream}", f"outputs={stream}", poisoned)
        assert ended.code == 0, ended.err
    import poisoning

    assert poisoning.Poison.steps == len(streams) * round(0.3 * 1438 / 64)
    assert same_weights(*(only_run(tmp_path / name) for name in ("plain", *streams)))


def test_a_compiled_run_compiles_its_step_once(command, monkeypatch):
    """Before its first step, whatever the learning rates of the others."""
    graphs, at_steps, compile_with, step = [], [], torch.compile, ImageClassifier.training_step

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def counted(self, batch, batch_idx):
        at_steps.append(len(graphs))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(torch, "compile", lambda work, **_: compile_with(work, dynamic=False, backend=backend))
    monkeypatch.setattr("fastconv.budget.benchmark.measure_speed", lambda *_: SpeedProfile(0.01, 0.001, 1.0))
    monkeypatch.setattr(ImageClassifier, "training_step", counted)
    ended = command("train", *RUN, "validate.on=none", "trainer.compile=true", "schedule.max_epochs=0.3")
    assert ended.code == 0, ended.err
    assert at_steps == [1] * round(0.3 * 1438 / 64)
    assert len(graphs) == 1


def test_the_bar_changes_ten_times_a_second(monkeypatch):
    """On a terminal, however short the steps are; the last one is shown."""
    now, described = 0.0, []
    monkeypatch.setattr("fastconv.training.callbacks.progress_bar.time", SimpleNamespace(monotonic=lambda: now))
    budget = SimpleNamespace(progress=0.0, steps=0, seconds=None)
    recorder = SimpleNamespace(budget=budget, latest={}, epochs=0.0)
    bar = BudgetProgressBar(recorder, Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(bar, "_line", lambda: described.append(budget.steps) or "")
    trainer = SimpleNamespace(should_stop=False)
    bar.on_train_start(trainer, None)
    for step in range(1, 1001):
        now += 0.0015
        budget.steps, trainer.should_stop = step, step == 1000
        bar.on_train_batch_end(trainer, None, None, None, step)
    bar.on_train_end(trainer, None)
    assert described[0] == 1
    assert described[-1] == 1000
    assert 14 <= len(described) <= 17
