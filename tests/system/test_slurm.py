"""What a command asks of SLURM: when its job ends, and to start it anew. Scripts stand for SLURM's commands here;
tests/faults/test_slurm.py has the real ones."""

import math
import os
import stat

import pytest

from fastconv.system.errors import InputError
from fastconv.system.slurm import is_restarted_job, job_end, requeue, seconds_of

NOW = 1_000_000.0


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Sets the variables of a job, and what squeue and scontrol answer. Returns the file of what they were asked."""
    for variable in list(os.environ):
        if variable.startswith("SLURM_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = tmp_path / "asked"

    def settle(variables, **answers):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        for name, (said, code) in answers.items():
            script = tmp_path / name
            script.write_text(f'#!/bin/sh\necho "{name} $*" >> {asked}\necho "{said}"\nexit {code}\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return asked

    return settle


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("2-03:04:05", ((2 * 24 + 3) * 60 + 4) * 60 + 5),
        ("1:02:03", 3723),
        ("04:05", 245),
        ("0:59", 59),
        ("UNLIMITED", math.inf),
        ("INVALID", None),
        ("", None),
    ],
)
def test_durations_as_squeue_writes_them(duration, seconds):
    assert seconds_of(duration) == seconds


def test_the_end_of_a_job_is_what_slurm_says(slurm):
    asked = slurm({"SLURM_JOB_ID": "7"}, squeue=("12:30", 0))
    assert job_end(NOW) == NOW + 750
    assert asked.read_text() == "squeue -h -j 7 -o %L\n"
    slurm({"SLURM_JOB_END_TIME": "1000600"})  # of later versions
    assert job_end(NOW) == NOW + 600
    assert asked.read_text().count("squeue") == 1


def test_a_job_without_a_limit_has_no_end(slurm):
    slurm({"SLURM_JOB_ID": "7"}, squeue=("UNLIMITED", 0))
    assert job_end(NOW) == math.inf
    slurm({"SLURM_JOB_END_TIME": str(int(NOW) + 364 * 24 * 3600)})  # SLURM takes a year for no limit
    assert job_end(NOW) == math.inf


@pytest.mark.parametrize(("array", "name"), [("7", "7_3"), ("5", "7")], ids=["the array's own number", "another one"])
def test_only_its_own_task_of_an_array_is_meant(slurm, array, name):
    """Without the task the number of an array means all of them: all would be requeued."""
    variables = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": "3"}
    asked = slurm(variables, squeue=("12:30", 0), scontrol=("JobState=RUNNING Requeue=1 BatchFlag=1", 0))
    assert job_end(NOW) == NOW + 750
    assert f"job {name} is requeued" in requeue()
    expected = [f"squeue -h -j {name} -o %L", f"scontrol show job -o {name}", f"scontrol requeue {name}"]
    assert asked.read_text().splitlines() == expected


def test_an_end_that_is_not_known_is_one_line(slurm):
    slurm({})
    with pytest.raises(InputError, match="this is not a SLURM job"):
        job_end(NOW)
    slurm({"SLURM_JOB_ID": "7"}, squeue=("slurm_load_jobs error", 1))
    with pytest.raises(InputError, match="squeue does not say how long job 7 may still run"):
        job_end(NOW)


@pytest.mark.parametrize(("variables", "restarted"), [({}, False), ({"SLURM_RESTART_COUNT": "0"}, False),
                                                      ({"SLURM_RESTART_COUNT": "2"}, True)])  # fmt: skip
def test_a_job_that_is_started_anew(slurm, variables, restarted):
    slurm({"SLURM_JOB_ID": "7", **variables})
    assert is_restarted_job() is restarted


@pytest.mark.parametrize(
    ("job", "says", "asks"),
    [
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=0 BatchFlag=1", "job 7 is requeued", True),
        ("JobState=RUNNING Reason=None Requeue=0 Restarts=0 BatchFlag=1", "job 7 may not be requeued", False),
        ("JobState=COMPLETING Reason=None Requeue=1 Restarts=0 BatchFlag=1", "", False),  # it was cancelled
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=0 BatchFlag=0", "", False),  # srun without a batch script
    ],
)
def test_only_a_running_batch_job_that_may_is_requeued(slurm, job, says, asks):
    asked = slurm({"SLURM_JOB_ID": "7"}, scontrol=(f"JobId=7 JobName=x {job} NumNodes=1", 0))
    line = requeue()
    assert line.startswith(says)
    assert bool(line) == bool(says)
    assert ("scontrol requeue 7" in asked.read_text()) == asks


def test_outside_of_a_job_nothing_is_requeued(slurm):
    asked = slurm({}, scontrol=("", 0))
    assert requeue() == ""
    assert not asked.exists()
