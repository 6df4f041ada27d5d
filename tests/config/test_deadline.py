"""`budget.until`: a run has what is left until a moment."""

import dataclasses
import time
from datetime import datetime, timedelta

import pytest

from fastconv.config import deadline
from fastconv.config.deadline import BoundedBudget, bounded, check_until, check_until_of_sweep, going_on, moment
from fastconv.config.overrides import compose
from fastconv.config.run_settings import as_yaml, hparams
from fastconv.config.schema import SEGMENTS, Budget, Config
from fastconv.system.errors import InputError

NOW = datetime(2026, 11, 29, 18, 0).astimezone()
OFFSET = NOW.isoformat()[-6:]
AGAIN = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}  # a job that SLURM starts again
END = str(int((NOW + timedelta(minutes=1)).timestamp()))


@pytest.fixture
def at_six(monkeypatch):
    monkeypatch.setattr(deadline, "wall", NOW.timestamp)
    for variable in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("FASTCONV_FIRST_RANK", raising=False)


def with_budget(**settings):
    return Config(budget=Budget(**settings))


@pytest.mark.parametrize(
    ("until", "after"),
    [
        ("18:30", timedelta(minutes=30)),
        ("18:00:01", timedelta(seconds=1)),
        ("17:59", timedelta(days=1, minutes=-1)),
        ("2026-11-30T18:30", timedelta(days=1, minutes=30)),
        ("2026-11-29 17:00", timedelta(hours=-1)),
    ],
)
def test_moments(until, after):
    assert moment(until, NOW.timestamp()) == (NOW + after).timestamp()


@pytest.mark.parametrize("until", ["25:00", "6pm", "30", "", "2026-13-01T10:00", "jobs", "9999-12-31T23:59-14:00"])
def test_other_texts_are_refused(until):
    with pytest.raises(InputError, match="give job, a clock time such as 18:30"):
        check_until(until)


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), OverflowError("out of range")])
def test_a_year_that_a_system_cannot_convert_is_refused(monkeypatch, error):
    """Windows knows no local times near 1970 or before, so that a clock time is read as one of today."""

    class Limited(datetime):
        def timestamp(self):
            if self.year < 1971:
                raise error
            return super().timestamp()

    monkeypatch.setattr(deadline, "datetime", Limited)
    check_until("18:30")
    with pytest.raises(InputError, match="give job, a clock time such as 18:30"):
        check_until("1969-07-20T20:17")


def test_the_jobs_of_a_sweep_are_not_over_on_another_day(at_six):
    with pytest.raises(InputError, match=r"budget.until=18:30 .* give the date too, such as .*=2026-11-29T18:30:00$"):
        check_until_of_sweep("18:30")
    for until in (None, "job", "2026-11-29T18:30:00"):
        check_until_of_sweep(until)


@pytest.mark.parametrize(
    ("given", "until", "seconds"),
    [
        (1000.0, "18:10", 2 + 600 - 30),  # at most 30 s are kept for figures
        (1000.0, "18:01", 2 + 60 - 5),  # at least 5
        (1000.0, "18:05", 2 + 300 - 15),
        (100.0, "18:10", 100.0),
        (None, "18:10", 2 + 600 - 30),
    ],
)
def test_the_smaller_of_budget_and_what_is_left_counts(at_six, given, until, seconds):
    budget = bounded(with_budget(seconds=given, until=until), spent=2.0).budget
    assert budget.seconds == pytest.approx(seconds)
    assert budget.counts == list(SEGMENTS)  # whatever a process does takes time of its job
    assert budget.ends == f"2026-11-29T{until}:00{OFFSET}"


def test_a_budget_until_a_moment_is_one_to_read(at_six):
    """In tenths of a second, as the plan and the result show it, also after a resume."""
    config = bounded(with_budget(seconds=1000.0, until="18:01"), spent=2.03128)
    assert config.budget.seconds == 57.0
    assert going_on(config, 500.26, None, 2.0, []).budget.seconds == 557.3


def test_slurm_has_time_to_end_a_job(at_six, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", END)
    assert bounded(with_budget(until="job"), spent=2.0).budget.seconds == pytest.approx(2 + 60 - 5 - 5)


def test_without_a_moment_nothing_changes(at_six):
    config = with_budget(seconds=1000.0)
    assert bounded(config, 2.0) is config
    assert going_on(config, 500.0, None, 2.0, []) is config


def test_a_job_without_an_end_leaves_the_budget_as_it_is(at_six, monkeypatch):
    monkeypatch.setattr(deadline, "job_end", lambda now: float("inf"))
    config = with_budget(seconds=1000.0, until="job")
    assert bounded(config, 2.0) is config
    with pytest.raises(InputError, match="as the job has none"):
        bounded(dataclasses.replace(config, budget=Budget(None, until="job"), autotune=["model"]), 2.0)


def test_a_run_that_goes_on_has_what_is_left_and_what_it_has_spent(at_six):
    config = bounded(with_budget(seconds=1000.0, until="18:01"), spent=2.0)
    assert going_on(config, 500.0, None, 2.0, []).budget.seconds == pytest.approx(500 + 2 + 60 - 5)
    assert going_on(config, 5000.0, None, 2.0, []).budget.seconds == 1000.0


@pytest.mark.parametrize(
    ("until", "ends", "overrides", "job", "keeps"),
    [
        ("18:30", "2026-11-29T18:10:00", [], {}, "2026-11-29T18:10:00"),  # given to the process before
        ("18:30", "2026-11-29T18:10:00", ["budget.until=18:30"], {}, "2026-11-29T18:30:00"),
        ("17:30", "2026-11-30T17:30:00", ["++budget.until=17:30"], AGAIN, "2026-11-30T17:30:00"),
        ("18:30", "2026-11-30T17:30:00", ["budget.until=18:30"], AGAIN, "2026-11-29T18:30:00"),
        ("18:30", None, [], AGAIN, "2026-11-29T18:30:00"),
        ("2026-11-30T18:30", "2026-11-29T18:10:00", [], {}, "2026-11-30T18:30:00"),
        ("job", "2026-11-29T17:10:00", [], {**AGAIN, "SLURM_JOB_END_TIME": END}, "2026-11-29T18:01:00"),
    ],
)
def test_a_run_that_goes_on_keeps_its_moment(at_six, monkeypatch, until, ends, overrides, job, keeps):
    for variable, value in job.items():
        monkeypatch.setenv(variable, value)
    config = bounded(with_budget(until=until, seconds=None), spent=2.0)
    assert going_on(config, 500.0, ends, 2.0, overrides).budget.ends == keeps + OFFSET


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="a process of Windows keeps its time zone")
@pytest.mark.parametrize("until", ["18:30", "2026-11-29T18:30"])
def test_a_run_that_goes_on_in_another_time_zone_keeps_its_moment(at_six, monkeypatch, until):
    """Where it is three hours later, so that the text alone would be over or mean the next day."""
    began, later = bounded(with_budget(until=until, seconds=None), 2.0).budget, NOW.utcoffset() + timedelta(hours=3)
    try:
        with monkeypatch.context() as there:
            there.setenv("TZ", f"<there>{-later // timedelta(hours=1)}")  # POSIX counts to the west
            time.tzset()
            stored = Config(budget=began.given)
            found = going_on(bounded(stored, 2.0), 500.0, began.ends, 2.0, []).budget
    finally:
        time.tzset()
    assert found.seconds == pytest.approx(500 + began.seconds)
    assert datetime.fromisoformat(found.ends) == NOW + timedelta(minutes=30)


@pytest.mark.parametrize(("overrides", "job"), [([], {}), (["budget.until=17:30"], AGAIN)])
def test_a_moment_that_passed_before_the_run_goes_on_is_one_line(at_six, monkeypatch, overrides, job):
    for variable, value in job.items():
        monkeypatch.setenv(variable, value)
    config = bounded(with_budget(until="17:30"), spent=2.0)
    says = (
        "over by 2026-11-29T17:30:00 .budget.until=17:30 when it began., which is over: .* none with budget.until=null"
    )
    with pytest.raises(InputError, match=says):
        going_on(config, 500.0, "2026-11-29T17:30:00", 2.0, overrides)


@pytest.mark.parametrize(
    ("until", "says"), [("2026-11-29T17:00", "is over"), ("18:00:03", "leaves 3 s, and 5 are kept for figures")]
)
def test_a_moment_that_is_too_near_is_one_line(at_six, until, says):
    with pytest.raises(InputError, match=says):
        bounded(with_budget(until=until), spent=2.0)


def test_outside_of_a_job_there_is_no_end_of_a_job(at_six):
    with pytest.raises(InputError, match="this is not a SLURM job"):
        bounded(with_budget(until="job"), spent=2.0)


def test_the_folder_of_a_run_keeps_the_budget_that_was_given(at_six):
    config = with_budget(seconds=1000.0, until="18:01")
    found = bounded(config, 2.0)
    assert isinstance(found.budget, BoundedBudget)
    assert as_yaml(found) == as_yaml(config)
    assert hparams(found) == hparams(with_budget(seconds=1000.0))  # so that it goes on in a job that ends elsewhere


@pytest.mark.parametrize(("seconds", "minutes"), [("60", 12), ("1000", 35), ("null", 60)])
def test_a_job_of_a_sweep_is_as_long_as_its_budget_needs(seconds, minutes):
    launcher = compose("train", ["hydra/launcher=slurm", f"budget.seconds={seconds}"], with_hydra=True).hydra.launcher
    assert launcher.timeout_min == minutes


def test_a_job_of_a_sweep_has_a_task_for_each_device():
    launcher = compose("train", ["hydra/launcher=slurm", "trainer.devices=2"], with_hydra=True).hydra.launcher
    assert (launcher.tasks_per_node, launcher.gpus_per_node) == (2, 2)
