"""`budget.until`: a run that is over by a certain moment, such as the end of its SLURM job."""

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fastconv.config.quoting import key_of
from fastconv.config.schema import SEGMENTS, Budget, Config
from fastconv.system.distributed import agent, from_first_rank, is_restarted
from fastconv.system.errors import InputError
from fastconv.system.slurm import job_end

JOB = "job"
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d)?")
DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
# Seconds kept for what follows the result, figures and the end of the process: a share of the time, between two bounds.
# Figures took 4 to 8 s of two cores.
AFTER_SHARE, AFTER_LEAST, AFTER_MOST = 0.05, 5.0, 30.0
# Seconds kept too for SLURM, which took up to 5 s from the end of a command to that of its job.
JOB_ENDS = 5.0


def wall() -> float:
    """The time of day in seconds since 1970; replace it to simulate that of whole commands."""
    return time.time()


@dataclass
class BoundedBudget(Budget):
    """The budget of a run that must be over by a moment: all that it does counts, from the start of its process."""

    given: Budget = field(default_factory=Budget)
    """The budget as it was configured, which the run's folder stores; a date and a time with their offset."""
    left: float = math.inf
    """Seconds that this process has, from its start."""
    ends: str = ""
    """The moment, as a local time with its offset from UTC."""


def check_until(until: str | None) -> None:
    """Raise InputError for a text that is not a moment."""
    if until is not None and until != JOB:
        moment(until, wall())


def check_until_of_sweep(until: str | None) -> None:
    """Raise InputError for a clock time: the jobs of a sweep that begin after it would take that of the next day."""
    if until is not None and CLOCK.fullmatch(until):
        today = datetime.fromtimestamp(moment(until, wall())).isoformat()
        raise InputError(
            f"budget.until={until} is not possible in a sweep, whose jobs begin at different times: give the date too,"
            f" such as budget.until={today}"
        )


def moment(until: str, now: float) -> float:
    """The moment, in seconds since 1970, that a text means; infinite for the end of a job without one.

    Args:
        until: `job`, a clock time `18:30` (the next one), or a date and a time `2026-11-29T18:30`.
        now: the present moment.

    Raises InputError for another text, and for `job` outside of a job.
    """
    if until == JOB:
        return job_end(now)
    try:
        if DATE.fullmatch(until):
            at = datetime.fromisoformat(until).timestamp()
            datetime.fromtimestamp(at).astimezone()  # fails where it is another year than 1 to 9999 here
            return at
        if CLOCK.fullmatch(until):
            hours, minutes, seconds = (*map(int, until.split(":")), 0)[:3]
            then = datetime.fromtimestamp(now).replace(hour=hours, minute=minutes, second=seconds, microsecond=0)
            return (then if then.timestamp() > now else then + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError, OSError):  # of years that a system cannot convert, such as before 1970
        pass
    raise InputError(
        f"budget.until={until} is not possible: give job, a clock time such as 18:30, or a date and a time such as"
        " 2026-11-29T18:30"
    )


def bounded(config: Config, spent: float) -> Config:
    """The config with the seconds until `budget.until`, if that is set. The same on all ranks.

    The budget is `budget.seconds` or these seconds, whichever is less, and each segment of the clock counts.

    Args:
        spent: seconds since the process began.

    Raises InputError for a moment that is over or too near.
    """
    budget = config.budget
    if budget.until is None or isinstance(budget, BoundedBudget):
        return config
    until = budget.until
    left, ends = from_first_rank("until", lambda: _time_left(until, until, spent))
    if not ends:
        if budget.seconds is None and (config.autotune or config.schedule.max_epochs is None):
            raise InputError("budget.until=job sets no limit, as the job has none: set budget.seconds too")
        return config
    seconds = left if budget.seconds is None else min(left, budget.seconds)
    # A run that goes on in another time zone must not read the date and time as one of its own.
    given = dataclasses.replace(budget, until=ends) if DATE.fullmatch(until) else budget
    every = BoundedBudget(seconds=seconds, counts=list(SEGMENTS), until=until, given=given, left=left, ends=ends)
    return dataclasses.replace(config, budget=every)


def ends_with_job(config: Config) -> bool:
    """Whether a bounded config has a run end before its SLURM job does."""
    return isinstance(config.budget, BoundedBudget) and config.budget.until == JOB


def going_on(config: Config, earlier: float, ends: str | None, spent: float, overrides: Sequence[str]) -> Config:
    """A bounded config for a run that goes on. Its clock counts what earlier processes spent, and it keeps its moment.

    A clock time means the next one when the run begins, and again when it is given to a command that resumes the run,
    but not if the command is that of a job that starts again, perhaps on the next day.

    Args:
        earlier: seconds that earlier processes spent on the run; 0 for a new one.
        ends: the moment by which the run had to be over so far; None for none. Earlier versions left out the offset.
        spent: as for `bounded`.
        overrides: the overrides of the command line.

    Raises InputError for a moment that is over or too near.
    """
    budget = config.budget
    if not isinstance(budget, BoundedBudget) or not earlier:
        return config
    until, most = str(budget.until), budget.given.seconds

    def measure() -> tuple[float, str]:
        return _time_left(until, ends if ends and _keeps(until, ends, overrides) else budget.ends, spent)

    left, over_by = from_first_rank("until of the run", measure)
    seconds = round(left + earlier, 1)
    seconds = seconds if most is None else min(seconds, most)
    return dataclasses.replace(config, budget=dataclasses.replace(budget, seconds=seconds, left=left, ends=over_by))


def _time_left(until: str, moment_of_run: str, spent: float) -> tuple[float, str]:
    """Seconds that this process has until a moment, from its start, and the moment (`BoundedBudget.ends`), empty for no
    end.

    Args:
        until: `budget.until` as it was given.
        moment_of_run: the same, or the moment that it meant when the run began.

    Raises InputError for a moment that is over or too near.
    """
    now = wall()
    ends = moment(moment_of_run, now)
    if math.isinf(ends):
        return 0.0, ""
    left, local = ends - now, datetime.fromtimestamp(ends).astimezone()
    kept = min(max(AFTER_LEAST, AFTER_SHARE * left), AFTER_MOST) + (JOB_ENDS if until == JOB else 0.0)
    if left <= kept:
        what = f"budget.until={until}"
        if until != moment_of_run:
            what = f"this run is to be over by {local:%Y-%m-%dT%H:%M:%S} ({what} when it began), which"
        over = f"leaves {left:.0f} s, and {kept:.0f} are kept for figures" if left > 0 else "is over"
        raise InputError(
            f"{what} {over}: there is no time for a run. Give a later moment with budget.until=..., or none with"
            " budget.until=null"
        )
    return round(spent + left - kept, 1), local.isoformat(timespec="seconds")


def _keeps(until: str, ends: str, overrides: Sequence[str]) -> bool:
    """Whether a run keeps its moment, though `budget.until` is a clock time that comes again each day."""
    if not CLOCK.fullmatch(until):
        return False
    given = set(map(key_of, overrides))
    if "budget.until" not in given:
        return True
    then = datetime.fromisoformat(ends).timestamp()
    return (is_restarted() or bool(agent() and "resume" not in given)) and moment(until, then - 1) == then
