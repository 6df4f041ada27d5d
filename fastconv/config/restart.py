"""Finds the run that a SLURM job had begun before it was requeued."""

import contextlib
from pathlib import Path

from fastconv.config.schema import Config
from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import from_first_rank
from fastconv.system.slurm import job_number
from fastconv.system.urls import redact


def of_restarted_job(config: Config, overrides: list[str]) -> str:
    """What to resume in a job that is started anew: the folder of the unfinished run that it began, else `auto`.

    A run that the job began with the same overrides counts, even if automatic choices would be others by now. The same
    on all ranks.
    """

    def find() -> str:
        job, begun = job_number(), []
        for path in Path(config.outputs).rglob("results.json") if job else ():
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = Results.read(path.parent)
                if (found.slurm_job, found.overrides) == (job, redact(overrides)) and not is_finished(path.parent):
                    begun.append((path.stat().st_mtime, str(path.parent)))
        return max(begun)[1] if begun else "auto"

    return str(from_first_rank("begun", find))
