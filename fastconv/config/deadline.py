"""`budget.until`: a run that is over by a certain moment, such as the end of its SLURM job."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fastconv.config.schema import SEGMENTS, Budget, Config
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError
from fastconv.system.slurm import job_end

JOB = "job"
CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d)?")
DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
# Seconds kept for what follows the result, figures and the end of the process: a share of the time, between two bounds.
# Figures took 4 to 8 s of two cores.
AFTER_SHARE, AFTER_LEAST, AFTER_MOST = 0.05, 5.0, 30.0


def wall() -> float:
    """The time of day in seconds since 1970; replace it to simulate that of whole commands."""
    return time.time()


@dataclass
class BoundedBudget(Budget):
    """The budget of a run that must be over by a moment: all that it does counts, from the start of its process."""

    given: Budget = field(default_factory=Budget)
    """The budget as it was configured, which the run's folder stores."""
    left: float = math.inf
    """Seconds that this process has, from its start."""
    ends: str = ""
    """The moment, as a local time."""


def check_until(until: str | None) -> None:
    """Raise InputError for a text that is not a moment."""
    if until is not None and until != JOB:
        moment(until, 0.0)


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
            return datetime.fromisoformat(until).timestamp()
        if CLOCK.fullmatch(until):
            hours, minutes, seconds = (*map(int, until.split(":")), 0)[:3]
            then = datetime.fromtimestamp(now).replace(hour=hours, minute=minutes, second=seconds, microsecond=0)
            return (then if then.timestamp() > now else then + timedelta(days=1)).timestamp()
    except ValueError:
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

    def measure() -> tuple[float, str]:
        now = wall()
        ends = moment(until, now)
        if math.isinf(ends):
            return 0.0, ""
        left = ends - now
        kept = min(max(AFTER_LEAST, AFTER_SHARE * left), AFTER_MOST)
        if left <= kept:
            over = f"leaves {left:.0f} s, and {kept:.0f} are kept for figures" if left > 0 else "is over"
            raise InputError(f"budget.until={until} {over}: there is no time for a run")
        return spent + left - kept, datetime.fromtimestamp(ends).isoformat(timespec="seconds")

    left, ends = from_first_rank("until", measure)
    if not ends:
        if budget.seconds is None and (config.autotune or config.schedule.max_epochs is None):
            raise InputError("budget.until=job sets no limit, as the job has none: set budget.seconds too")
        return config
    seconds = left if budget.seconds is None else min(left, budget.seconds)
    every = BoundedBudget(seconds=seconds, counts=list(SEGMENTS), until=until, given=budget, left=left, ends=ends)
    return dataclasses.replace(config, budget=every)


def ends_with_job(config: Config) -> bool:
    """Whether a bounded config has a run end before its SLURM job does."""
    return isinstance(config.budget, BoundedBudget) and config.budget.until == JOB


def going_on(config: Config, earlier: float) -> Config:
    """A bounded config for a run on which earlier processes spent seconds, which its clock counts too."""
    budget = config.budget
    if not isinstance(budget, BoundedBudget) or not earlier:
        return config
    left, most = budget.left + earlier, budget.given.seconds
    return dataclasses.replace(
        config, budget=dataclasses.replace(budget, seconds=left if most is None else min(left, most))
    )
