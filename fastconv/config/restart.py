"""Finds the run that a SLURM job had begun before it was requeued, or torchrun before it started the ranks anew."""

import contextlib
from pathlib import Path

from fastconv.config.schema import Config
from fastconv.runs.collection import run_folders
from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import agent, from_first_rank
from fastconv.system.files import write_atomically
from fastconv.system.slurm import is_restarted_job, job_number
from fastconv.system.urls import redact

# The file in a run's folder that says which torchrun trains it. torchrun counts only the restarts after a failure on
# its own machine, not those in which a machine has left or joined.
AGENT = ".agent"


def keep_agent(run: Path) -> None:
    """Write into a run's folder which torchrun trains it, if one does. Raises InputError if that is not possible."""
    if agent():
        write_atomically(run / AGENT, agent().encode())


def begun_by_agent(outputs: Path) -> dict[Path, float]:
    """The folders of runs that the torchrun of this process has trained, with as many ranks or others, and the times of
    their configs."""
    begun = {}
    for folder, written in run_folders(outputs).items():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (folder / AGENT).read_text("utf-8") == agent():
                begun[folder] = written
    return begun


def finished_before(config: Config, overrides: list[str]) -> str | None:
    """The folder of the run that this process trained to its end before it was started anew; None if there is none.

    torchrun starts all ranks anew if one has failed after the end of a run, and SLURM a job that is preempted while its
    run draws figures, or while it trains the next one. The same on all ranks.
    """

    def find() -> str | None:
        by_agent = begun_by_agent(config.outputs_folder) if agent() else {}
        if folder := next(filter(is_finished, by_agent), None):
            return str(folder)
        in_job = _begun_in_job(config, overrides) if is_restarted_job() else []
        return str(in_job[0]) if in_job and all(map(is_finished, in_job)) else None

    folder: str | None = from_first_rank("ended", find)
    return folder


def of_restarted_job(config: Config, overrides: list[str]) -> str:
    """The value of `resume` in a restarted job: the folder of the unfinished run that it began, else `auto`.

    A run that the job began with the same overrides counts, even if automatic choices would be others by now. The same
    on all ranks.
    """

    def find() -> str:
        return next((str(each) for each in _begun_in_job(config, overrides) if not is_finished(each)), "auto")

    return str(from_first_rank("begun", find))


def _begun_in_job(config: Config, overrides: list[str]) -> list[Path]:
    """The folders of the runs with these overrides that the SLURM job of this process has trained, the newest first."""
    job, begun = job_number(), []
    for folder in run_folders(config.outputs_folder) if job else ():
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = Results.read(folder)
            if (found.slurm_job, found.overrides) == (job, redact(overrides)):
                begun.append(((folder / "results.json").stat().st_mtime, folder))
    return [folder for _, folder in sorted(begun, reverse=True)]
