"""Finds the run that a SLURM job had begun before it was requeued, or torchrun before it started the ranks anew."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastconv.config.schema import Config
from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import agent, from_first_rank
from fastconv.system.files import write_atomically
from fastconv.system.slurm import job_number
from fastconv.system.urls import redact

# The file in a run's folder that says which torchrun trains it. torchrun counts only the restarts after a failure on
# its own machine, not those in which a machine has left or joined.
AGENT = ".agent"


def keep_agent(run: Path) -> None:
    """Write into a run's folder which torchrun trains it, if one does. Raises InputError if that is not possible."""
    if agent():
        write_atomically(run / AGENT, agent().encode())


def begun_by_agent(outputs: Path) -> Iterator[Path]:
    """The configs of runs that the torchrun of this process has trained, with as many ranks or others."""
    for path in outputs.rglob(AGENT):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text("utf-8") == agent():
                yield path.with_name("config.yaml")


def finished_by_agent(outputs: Path) -> str | None:
    """The folder of the run that the torchrun of this process has trained to its end, after which another rank must
    have failed; None if it has not. The same on all ranks."""

    def find() -> str | None:
        found = (config.parent for config in (begun_by_agent(outputs) if agent() else ()))
        return next((str(folder) for folder in found if is_finished(folder)), None)

    folder: str | None = from_first_rank("ended", find)
    return folder


def of_restarted_job(config: Config, overrides: list[str]) -> str:
    """What to resume in a job that is started anew: the folder of the unfinished run that it began, else `auto`.

    A run that the job began with the same overrides counts, even if automatic choices would be others by now. The same
    on all ranks.
    """

    def find() -> str:
        job, begun = job_number(), []
        for path in config.outputs_folder.rglob("results.json") if job else ():
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = Results.read(path.parent)
                if (found.slurm_job, found.overrides) == (job, redact(overrides)) and not is_finished(path.parent):
                    begun.append((path.stat().st_mtime, str(path.parent)))
        return max(begun)[1] if begun else "auto"

    return str(from_first_rank("begun", find))
