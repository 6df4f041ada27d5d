"""A machine that becomes slow half-way."""

import itertools
import multiprocessing
import os
import time

import pytest
from harness import finish, only_run, rows, start

from fastconv.optim.schedules import OneCycle
from fastconv.runs.results import Results

pytestmark = pytest.mark.slow
MAX_LR = 0.4


def hog():
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while True:
        pass


def test_a_hog_on_one_core_from_the_half_on(tmp_path, digits_root):
    """60 s on digits: inside the budget, annealed, and the learning rate never leaps."""
    (tmp_path / "record").mkdir()
    run = ("dataset=digits", "trainer=cpu", "budget.seconds=60", "schedule.max_epochs=null")
    assert finish(tmp_path, digits_root, *run, "dry_run=true")[0] == 0  # benchmark and decode before
    threads = str(len(os.sched_getaffinity(0)))
    process = start(tmp_path, digits_root, *run, RECORD=str(tmp_path / "record"), OMP_NUM_THREADS=threads)
    disturber = multiprocessing.get_context("spawn").Process(target=hog, daemon=True)
    while process.poll() is None:
        time.sleep(0.2)
        results = list((tmp_path / "outputs").rglob("results.json"))
        if results and disturber.pid is None and Results.read(results[0].parent).seconds_counted > 30:
            disturber.start()
    assert process.returncode == 0, (tmp_path / "err.txt").read_text()
    assert disturber.is_alive()
    disturber.kill()
    found = Results.read(only_run(tmp_path))
    assert found.seconds_counted <= 60
    assert found.final_lr <= 0.01
    (steps,) = rows(tmp_path / "record", 0)
    curve = OneCycle()
    steepest = MAX_LR * max(1 / curve.pct_start, 1 / (1 - curve.pct_start))
    for before, after in itertools.pairwise(steps):
        change = abs(float(after["lr"]) - float(before["lr"]))
        assert change <= steepest * (float(after["progress"]) - float(before["progress"])) + 1e-5
