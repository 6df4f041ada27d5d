"""Runs whose benchmarks are wrong at random: 1000 times too slow, true, or 10 times too fast."""

import functools
import os

import pytest
import torch
from harness import faulty_benchmarks, only_run, run_command

from fastconv.data.loading import load
from fastconv.runs.results import Results

pytestmark = pytest.mark.slow
BUDGET = 10
# Epochs after which the digits are learned: a machine on which 10 s are not enough for them was busy otherwise.
EPOCHS = 40


@pytest.fixture
def all_threads(monkeypatch):
    """The number of threads that torch would choose; the tests as a whole use one."""
    before, count = torch.get_num_threads(), len(os.sched_getaffinity(0))
    for module in ("budget.hardware", "training.plan", "training.callbacks.watch_speed"):
        monkeypatch.setattr(f"fastconv.{module}.default_threads", lambda: count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(50))
def test_a_run_with_wrong_benchmarks_is_neither_refused_nor_late(tmp_path, all_threads, seed):
    """`experiment=best` on digits in 10 s; every fifth run is a plain one."""
    load("digits", tmp_path / "data")
    experiment = () if seed % 5 == 4 else ("experiment=best",)
    train = functools.partial(run_command, tmp_path, tmp_path / "data", "train")
    with faulty_benchmarks(seed, (1000.0, 1.0, 0.1)):
        ended = train(
            "dataset=digits", *experiment, f"budget.seconds={BUDGET}", "schedule.max_epochs=null", "trainer=cpu"
        )
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    print(seed, found.hparams.get("model.widths"), found.batch_size, found.threads, found.steps, found.epochs,
          found.accuracy, found.seconds_counted, found.seconds)  # fmt: skip
    assert found.seconds_counted <= BUDGET
    assert found.final_lr < 0.02
    assert found.accuracy >= 0.95 or found.epochs < EPOCHS
