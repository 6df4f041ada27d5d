"""A run checks its config, and loads, splits and checks its data, once."""

import sys
from collections import Counter

import pytest
from harness import SHORT

from fastconv.config.prerequisites import check_data
from fastconv.config.validation import check
from fastconv.data.loading import load, open_splits

ONCE = {function.__code__: function.__name__ for function in (check, check_data, load, open_splits)}


@pytest.fixture
def calls(command):
    """Run a command; count the calls of those that a run needs once."""

    def run(*arguments: str) -> Counter[str]:
        counted: Counter[str] = Counter()

        def count(frame, event, _):
            if event == "call" and frame.f_code in ONCE:
                counted[ONCE[frame.f_code]] += 1

        sys.setprofile(count)
        try:
            ended = command(*arguments)
        finally:
            sys.setprofile(None)
        assert ended.code == 0, ended.err
        return counted

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "experiment=best", "dry_run=true", "budget.seconds=60"),
        ("train", "dry_run=true", *SHORT, "dataset.holdout=0.1"),
        ("precompute", *SHORT, "stream.epochs=1"),
        (
            "lr_find",
            "range_test.steps=20",
            "range_test.min_lr=0.01",
            "range_test.max_lr=1",
            "model.width=8",
            "batch_size=64",
        ),
    ],
    ids=["best", "train", "precompute", "lr_find"],
)
def test_a_run_is_checked_and_its_data_loaded_once(calls, arguments):
    assert calls(arguments[0], "dataset=digits", "trainer=cpu", *arguments[1:]) == dict.fromkeys(ONCE.values(), 1)


def test_a_sweep_checks_all_jobs_first_and_each_when_it_starts(calls):
    counted = calls("train", "-m", "dataset=digits", "dry_run=true", *SHORT, "seed=0,1,2")
    assert counted == dict.fromkeys(ONCE.values(), 6)
