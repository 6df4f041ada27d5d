"""The SLURM job that this command runs in: when it ends, whether it was started anew, and how to requeue it."""

import math
import os
import re
import shutil
import subprocess

from fastconv.system.cluster import number_in
from fastconv.system.errors import InputError

# Seconds for an answer of SLURM's controller, which may be busy.
ANSWER_SECONDS = 60.0
# What squeue says of a job without a time limit, and seconds after which SLURM_JOB_END_TIME says that it ends: SLURM
# itself takes 365 days for it. Less, since some of them are over.
UNLIMITED, NEVER = "UNLIMITED", 300 * 24 * 3600.0
DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")


def job_number() -> str | None:
    """The number of the job, other for each task of an array; None outside of a job."""
    return os.environ.get("SLURM_JOB_ID") or None


def _name() -> str | None:
    """The job as SLURM's commands take it: one task of an array has the array's own number, which means all of them."""
    job = job_number()
    is_whole_array = job is not None and job == os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if is_whole_array else job


def is_restarted_job() -> bool:
    """Whether SLURM starts the job anew, after it was preempted, requeued or lost a node."""
    return job_number() is not None and number_in("SLURM_RESTART_COUNT", 0) > 0


def job_end(now: float) -> float:
    """The moment at which SLURM ends the job, in seconds since 1970; infinite for a job without a time limit.

    Args:
        now: the present moment.

    Raises InputError outside of a job, and where SLURM does not say it.
    """
    job = _name()
    if job is None:
        raise InputError(
            "budget.until=job is not possible: this is not a SLURM job (SLURM_JOB_ID is not set). Give a clock time,"
            " such as budget.until=18:30"
        )
    if end := number_in("SLURM_JOB_END_TIME", 0):  # SLURM 23.02 and later
        return float(end) if end - now < NEVER else math.inf
    left = _ask("squeue", "-h", "-j", job, "-o", "%L").strip()
    seconds = seconds_of(left)
    if seconds is None:
        raise InputError(
            f"budget.until=job is not possible: squeue does not say how long job {job} may still run"
            f"{f' ({left})' if left else ''}. Give a clock time, such as budget.until=18:30"
        )
    return now + seconds


def seconds_of(duration: str) -> float | None:
    """The seconds of a duration as squeue writes it, `2-03:04:05` or `04:05`; infinite for no limit, None for no
    duration."""
    if duration == UNLIMITED:
        return math.inf
    found = DURATION.fullmatch(duration)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def requeue() -> str:
    """Put the job back into the queue, if it may be and was not cancelled. SLURM then ends it, and starts it anew.

    Returns a line about it; empty outside of a batch job, and where the job ends anyway.
    """
    job = _name()
    if job is None or shutil.which("scontrol") is None:
        return ""
    said = dict(re.findall(r"(?:^|\s)(JobState|Requeue|BatchFlag)=(\S+)", _ask("scontrol", "show", "job", "-o", job)))
    # A job that was cancelled, or whose time is over, is not running any more. One that SLURM preempts by itself comes
    # back by itself.
    if said.get("BatchFlag") != "1" or said.get("JobState") != "RUNNING":
        return ""
    if said.get("Requeue") != "1":
        return f"job {job} may not be requeued (sbatch --requeue)"
    done = _run("scontrol", "requeue", job)
    if done is None or done.returncode:
        reason = " ".join((done.stderr if done else "no answer").split())
        return f"SLURM did not requeue job {job}: {reason}"
    return f"job {job} is requeued and will go on with this run"


def _ask(*command: str) -> str:
    """The output of a command of SLURM; empty if it fails."""
    done = _run(*command)
    return done.stdout if done is not None and done.returncode == 0 else ""


def _run(*command: str) -> subprocess.CompletedProcess[str] | None:
    """A command of SLURM that has ended; None if it could not be run or did not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
