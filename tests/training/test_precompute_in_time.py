"""Precomputing in the time of a budget that counts it."""

import pytest
from harness import SMALL, only_run

from fastconv.data.stream.spec import StreamSpec
from fastconv.runs.results import Results

EVERYTHING = "budget.counts=[setup,benchmark,precompute,compile,train,validate,checkpoint,test]"
GIVEN = ("dataset=digits", *SMALL, "schedule.max_epochs=null", "budget.seconds=20", "validate.on=none", EVERYTHING,
         "stream.root=streams")  # fmt: skip


@pytest.fixture
def block_seconds(monkeypatch, simulated_time):
    """A list, empty at first, of the seconds that each of the next augmented blocks of images takes more."""
    compute, seconds = StreamSpec.compute, []

    def slow(self, *given):
        simulated_time.seconds += seconds.pop(0) if seconds else 0.0
        return compute(self, *given)

    monkeypatch.setattr(StreamSpec, "compute", slow)
    return seconds


def test_a_slow_start_of_the_stream_leaves_time_for_training(command, tmp_path, block_seconds):
    # The first are quick, so that a shard is whole whichever of the threads is first.
    block_seconds[:] = [0.0] * 8 + [3.0] * 3
    ended = command("train", *GIVEN, "stream.epochs=20")
    assert ended.code == 0, ended.err
    assert "the time for precomputing is over" in ended.out
    results = Results.read(only_run(tmp_path))
    assert 4 <= results.seconds["precompute"] <= 9.5
    assert results.seconds_counted <= 20
    assert results.steps > 20
    assert results.final_lr < 0.01
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    assert command("precompute", *GIVEN, "stream.epochs=2", "verify=true").code == 0


def test_a_start_that_took_all_the_time_is_refused(command, tmp_path, block_seconds):
    block_seconds[:] = [30.0]
    ended = command("train", *GIVEN)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "budget.seconds=20 was over before training began, after 3" in ended.err
    assert "s: precomputing 30 s" in ended.err
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*"))
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    assert not list(tmp_path.rglob("*.tar"))


def test_the_command_writes_all_of_it(command, tmp_path, block_seconds):
    block_seconds[:] = [30.0]
    ended = command("precompute", *GIVEN, "stream.epochs=2")
    assert ended.code == 0, ended.err
    assert len(list(tmp_path.rglob("*.tar"))) == 2
