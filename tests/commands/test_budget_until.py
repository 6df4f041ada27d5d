"""Runs that must be over by a moment, in simulated time."""

import signal
from datetime import datetime, timedelta

import pytest
from harness import SMALL, files, only_run, stop_at

from fastconv.config import deadline
from fastconv.config.schema import SEGMENTS
from fastconv.runs.results import Results

BEGAN = datetime(2026, 11, 29, 18, 0).astimezone()
OFFSET = BEGAN.isoformat()[-6:]
RUN = ("dataset=digits", *SMALL, "stream=online", "schedule.max_epochs=null")


@pytest.fixture
def at_six(monkeypatch, simulated_time):
    """The time of day, which goes on with the simulated time."""
    go_to(monkeypatch, simulated_time, BEGAN)
    for variable in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(variable, raising=False)
    return simulated_time


def go_to(monkeypatch, simulated_time, moment):
    began = simulated_time.seconds
    monkeypatch.setattr(deadline, "wall", lambda: moment.timestamp() + simulated_time.seconds - began)


def test_a_run_is_annealed_and_scored_by_the_moment(command, tmp_path, at_six):
    ended = command("train", *RUN, "budget.until=18:00:10")
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert found.stop_reason == "budget"
    assert found.accuracy is not None
    assert found.final_lr < 0.02
    assert found.budget_seconds == pytest.approx(5, abs=0.1)  # 5 s are kept for figures
    assert found.budget_counts == list(SEGMENTS)
    assert found.budget_until == f"2026-11-29T18:00:10{OFFSET}"
    assert sum(found.seconds.values()) <= found.budget_seconds
    assert BEGAN + timedelta(seconds=at_six.seconds) <= datetime.fromisoformat(found.budget_until)
    assert "everything up to the result, to be over by 2026-11-29T18:00:10" in " ".join(ended.out.split())
    assert found.hparams["budget.seconds"] == 1000  # as it was given


def test_a_run_is_over_by_the_moment_though_its_machine_was_suspended(command, tmp_path, at_six, monkeypatch):
    """The monotonic time of Linux stands still then, but not the time of day."""
    from fastconv.training.module import ImageClassifier

    day, original, steps, asleep = deadline.wall, ImageClassifier.training_step, 0, 0.0

    def step(self, *arguments):
        nonlocal steps, asleep
        steps, asleep = steps + 1, 2.0 if steps >= 3 else 0.0
        return original(self, *arguments)

    monkeypatch.setattr(deadline, "wall", lambda: day() + asleep)
    monkeypatch.setattr(ImageClassifier, "training_step", step)
    ended = command("train", *RUN, "budget.until=18:00:10")
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert (found.stop_reason, found.accuracy is None) == ("budget", False)
    assert found.final_lr < 0.07
    assert at_six.seconds < sum(found.seconds.values()) <= found.budget_seconds
    assert BEGAN + timedelta(seconds=at_six.seconds + asleep) <= datetime.fromisoformat(found.budget_until)


def test_a_run_that_ends_with_its_job_is_not_stopped_by_the_warning(command, tmp_path, at_six, monkeypatch):
    """SLURM sends it before the run would end: stopped and requeued each time, the run would never end."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(BEGAN.timestamp()) + 15))
    stop_at(monkeypatch, "training_step", 3, signal.SIGUSR1)
    ended = command("train", *RUN, "budget.until=job")
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert (found.stop_reason, found.resumed) == ("budget", 0)
    assert found.steps > 3
    assert found.accuracy is not None


def test_a_smaller_budget_counts(command, tmp_path, at_six):
    ended = command("train", *RUN, "budget.until=18:30", "budget.seconds=4")
    assert ended.code == 0, ended.err
    assert Results.read(only_run(tmp_path)).budget_seconds == 4


def test_a_run_keeps_its_moment_on_the_next_day_unless_it_is_given_another(command, tmp_path, at_six, monkeypatch):
    stop_at(monkeypatch, "training_step", 3)
    assert command("train", *RUN, "budget.until=18:00:30").code == 128 + signal.SIGTERM
    run = only_run(tmp_path)
    go_to(monkeypatch, at_six, BEGAN + timedelta(seconds=10))
    stop_at(monkeypatch, "training_step", 3)
    assert command("train", f"resume={run}").code == 128 + signal.SIGTERM
    found = Results.read(run)
    assert (found.resumed, found.budget_until) == (1, f"2026-11-29T18:00:30{OFFSET}")

    go_to(monkeypatch, at_six, BEGAN + timedelta(days=1))
    over = "this run is to be over by 2026-11-29T18:00:30 (budget.until=18:00:30 when it began), which is over"
    ended = command("train", f"resume={run}")
    assert (ended.code, ended.err.count("\n"), over in ended.err) == (1, 1, True), ended.err
    with monkeypatch.context() as job:
        job.setenv("SLURM_JOB_ID", "7")
        job.setenv("SLURM_RESTART_COUNT", "1")
        ended = command("train", *RUN, "budget.until=18:00:30")
        assert (ended.code, ended.err.count("\n"), over in ended.err) == (1, 1, True), ended.err
    assert Results.read(run) == found
    ended = command("train", f"resume={run}", "budget.until=18:00:30")
    assert ended.code == 0, ended.err
    found = Results.read(run)
    assert (found.resumed, found.stop_reason, found.budget_until) == (2, "budget", f"2026-11-30T18:00:30{OFFSET}")
    assert found.accuracy is not None


@pytest.mark.parametrize(
    ("until", "says"),
    [
        ("job", "budget.until=job is not possible: this is not a SLURM job (SLURM_JOB_ID is not set)"),
        ("2026-11-29T17:00", "budget.until=2026-11-29T17:00 is over: there is no time for a run"),
        ("soon", "budget.until=soon is not possible: give job, a clock time such as 18:30"),
    ],
)
def test_a_moment_that_is_none_is_one_line(command, tmp_path, at_six, until, says):
    ended = command("train", *RUN, f"budget.until={until}")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert says in ended.err
    assert not files(tmp_path)
