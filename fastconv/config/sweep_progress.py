"""How far a sweep is: a line for each job, with the time that the remaining ones will take."""

import time
from collections.abc import Callable
from pathlib import Path

from fastconv.runs.folder import is_over


class SweepProgress:
    """The jobs of a sweep, one by one in this process or, through a launcher, several at once in others.

    Args:
        jobs: their number.
        folder: of the sweep; that of a job is named by its number.
        now: reads a clock, in seconds.
        wall: reads one that other processes and machines share.
    """

    def __init__(
        self,
        jobs: int,
        folder: Path,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._jobs, self._folder, self._now, self._wall = jobs, folder, now, wall
        self._began = wall()
        self._to_run = {number for number in range(jobs) if not is_over(folder / str(number))}
        self._seconds: list[float] = []
        self._begun: float | None = None

    def line(self, number: int, overrides: str) -> str:
        """Say which job begins, and from the second one on how long it and the others will take.

        That is the mean of the jobs so far for each that is left. Those that were finished before take no time.
        """
        self.end()
        line = f"job {number} of {self._jobs}: {overrides}"
        left = sum(each >= number for each in self._to_run)
        if self._seconds and left:
            line += f"; about {duration(left * sum(self._seconds) / len(self._seconds))} left"
        self._begun = self._now() if number in self._to_run else None
        return line

    def line_elsewhere(self, number: int, overrides: str) -> str:
        """The same where several processes work at once, of a launcher or of a search: by how many jobs of the sweep
        were finished since it began."""
        line = f"job {number} of {self._jobs}: {overrides}"
        finished = sum(is_over(self._folder / str(each)) for each in self._to_run)
        if finished and (left := len(self._to_run) - finished):
            line += f"; about {duration(left * (self._wall() - self._began) / finished)} left"
        return line

    def end(self) -> None:
        """Note how long the job that began last has taken."""
        if self._begun is not None:
            self._seconds.append(self._now() - self._begun)
        self._begun = None


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
