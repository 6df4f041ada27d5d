"""Sweeps: the folder that holds a sweep's runs, and which sweep to resume."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from fastconv.config.deadline import check_until_of_sweep
from fastconv.config.quoting import key_of, literally
from fastconv.config.resume import require_job
from fastconv.config.search_space import SAMPLING, Dimension
from fastconv.runs.folder import is_over
from fastconv.runs.hparams import is_location
from fastconv.system.distributed import (
    agent,
    from_first_rank,
    is_first_rank,
    is_restarted,
    on_any_rank,
    started_together,
)
from fastconv.system.documents import read_yaml
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable, write_atomically
from fastconv.system.heartbeat import watching_ranks
from fastconv.system.names import printable
from fastconv.system.slurm import is_restarted_job, job_number
from fastconv.system.urls import redacted

# The file that records a sweep's command. Only Hydra's basic sweeper writes Hydra's own multirun.yaml.
DESCRIPTION = "sweep.yaml"
# The keys in it of the number of jobs, in a search of its trials.
JOBS, TRIALS = "jobs", "trials"
# The keys in it of the SLURM jobs, and of the torchruns, that have worked on the sweep.
SLURM_JOBS, TORCHRUNS = "slurm_jobs", "torchruns"
OWN_FILES = (DESCRIPTION, "multirun.yaml")
# Overrides that decide how jobs are launched, but not which jobs there are.
LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra.sweep.", "hydra.mode")
# Launchers whose jobs may have several ranks: one job after the other in this process, and tasks of SLURM.
SEVERAL_DEVICES = ("BasicLauncher", "SlurmLauncher")


@dataclass(frozen=True)
class Sweep:
    """A sweep: its command, the overrides as written, the config of each job, and its folder.

    The jobs of a search are not known in advance: `configs` then holds what all of them share, `fixed` has the
    overrides of that, and `space` the settings that it varies. `composed` has each job's config as Hydra composed it,
    with Hydra's own settings, if the jobs are to run one by one in this process.
    """

    command: str
    overrides: tuple[str, ...]
    configs: tuple[Any, ...]
    folder: Path
    composed: tuple[DictConfig, ...] = ()
    launcher: str = ""
    """The class that starts the jobs."""
    fixed: tuple[str, ...] = ()
    space: tuple[Dimension, ...] = ()
    may_have_ranks: bool = False
    """Whether processes that a launcher has started together do each job together, as only training does."""

    @property
    def is_search(self) -> bool:
        """Whether its jobs are the trials of a search."""
        return bool(self.space)

    @property
    def first(self) -> Any:
        """The config of the first job."""
        return self.configs[0]

    @property
    def has_ranks(self) -> bool:
        """Whether a launcher has started all ranks of each job together, of which this process is one."""
        return self.may_have_ranks and started_together() and self.first.trainer.world > 1

    @property
    def is_kept_by_another(self) -> bool:
        """Whether this process is not the first rank, which alone writes to the folder and reports."""
        return self.has_ranks and not is_first_rank()


def begin(sweep: Sweep) -> Sweep:
    """Choose the folder of a sweep, a resumed one if it asks for that, and write its description there.

    Of ranks that a launcher has started together, the first one does this for all: each would choose a folder of its
    own. Raises InputError for jobs that cannot run in a sweep, and for a folder that cannot be written or holds another
    sweep.
    """
    for config in sweep.configs if hasattr(sweep.first, "sweep") else ():
        if config.resume is not None:
            raise InputError(f"resume={config.resume} is of a single run: for a sweep use sweep.resume")
        check_until_of_sweep(config.budget.until)
        if config.trainer.devices > 1 and not sweep.launcher.endswith(SEVERAL_DEVICES):
            raise InputError(
                f"trainer.devices={config.trainer.devices} is not possible with this hydra/launcher: leave the launcher"
                " out to train one run after the other, or use hydra/launcher=slurm"
            )
    if not sweep.has_ranks:
        return _in_its_folder(sweep, is_restarted())
    with watching_ranks():
        restarted = on_any_rank("restarted", is_restarted())
        folder = from_first_rank("sweep", lambda: str(_in_its_folder(sweep, restarted).folder))
    return dataclasses.replace(sweep, folder=Path(folder))


def _in_its_folder(sweep: Sweep, restarted: bool) -> Sweep:
    """The sweep in the folder that it asks for, with its description there.

    Args:
        restarted: whether any of its processes is started anew, as it or its machine knows.
    """
    resume = getattr(getattr(sweep.first, "sweep", None), "resume", None)
    count = {TRIALS if sweep.is_search else JOBS: len(sweep.configs)}
    asked = {"command": sweep.command, "overrides": _of_interest(sweep.overrides), **count}
    if resume not in (None, "auto"):
        sweep = dataclasses.replace(sweep, folder=Path(resume))
        _require_same(sweep)
    elif hasattr(sweep.first, "sweep") and (resume or restarted or agent()):
        begun = _newest(Path(sweep.first.outputs) / "sweeps", asked, only_own=resume is None and not restarted)
        sweep = dataclasses.replace(sweep, folder=begun or sweep.folder)
    worked = {key: _worked(sweep.folder, key, own) for key, own in ((SLURM_JOBS, job_number()), (TORCHRUNS, agent()))}
    description = asked | {key: found for key, found in worked.items() if found}
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(sweep.folder / DESCRIPTION, yaml.safe_dump(description, sort_keys=False).encode())
    except OSError as error:
        raise unwritable(sweep.folder, error) from error
    return sweep


def described(folder: Path) -> dict[str, Any] | None:
    """Read a sweep's description from its folder: command, overrides and number of jobs; None if there is none."""
    try:
        found = read_yaml(folder / DESCRIPTION)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("overrides"), list):
        return None
    found["overrides"] = [printable(str(text)) for text in found["overrides"]]
    return found | {"command": "train"} if found.get("command") == "config" else found  # its name in version 0.1


def _require_same(sweep: Sweep) -> None:
    """Raise InputError if the folder of a sweep holds something else."""
    folder = sweep.folder
    there = folder.is_dir() and list(folder.iterdir())
    if there and not any((folder / name).exists() for name in OWN_FILES):
        raise InputError(f"sweep.resume={folder} is not the folder of a sweep: it has no {DESCRIPTION}")
    other = (described(folder) or {}).get("command", sweep.command)
    if other != sweep.command:
        raise InputError(f"sweep.resume={folder} is a sweep of another command: give the one that it was started with")
    for number, config in enumerate(sweep.configs if not sweep.is_search else ()):
        require_job(config, folder / str(number))


def override_of(folder: Path) -> str:
    """The override that makes Hydra put a sweep's runs into a folder."""
    return f"hydra.sweep.dir={literally(folder)}"


def _of_interest(overrides: tuple[str, ...]) -> list[str]:
    """The overrides that decide which runs a sweep has, as they are stored: printable, URLs without their secrets."""
    keys = {text: key_of(text) for text in overrides}
    kept = [
        text
        for text in overrides
        if keys[text] in SAMPLING or not (is_location(keys[text]) or keys[text].startswith(LAUNCHING))
    ]
    return [printable(redacted(text)) for text in kept]


def _newest(parent: Path, asked: dict[str, Any], only_own: bool = False) -> Path | None:
    """The newest sweep with the same description that has jobs left; None if there is none.

    What a SLURM job or torchrun starts anew goes on with the one that it began, even if that has none left.

    Args:
        only_own: return None if there is no such one. torchrun counts only the restarts after a failure on its own
            machine, but any of its sweeps tells of a restart, since it starts one command.
    """
    newest_first = sorted(parent.glob(f"*/{DESCRIPTION}"), key=lambda path: path.parent.name, reverse=True)
    alike = [path.parent for path in newest_first if _same(described(path.parent) or {}, asked)]
    left = [folder for folder in alike if not is_whole(folder, asked.get(TRIALS) or asked[JOBS])]
    if own := list(filter(_is_own, alike)):
        return next((folder for folder in left if folder in own), own[0])
    return left[0] if left and not only_own else None


def _same(description: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether a sweep is the one that is asked for; a search may have more trials, or fewer."""
    beside = (TRIALS, SLURM_JOBS, TORCHRUNS)
    found, wanted = ({key: each[key] for key in each if key not in beside} for each in (description, asked))
    return found == wanted


def _is_own(folder: Path) -> bool:
    """Whether the torchrun of this process, or the SLURM job that is started anew, has worked on a sweep."""
    in_job = is_restarted_job() and job_number() in _worked(folder, SLURM_JOBS)
    return in_job or agent() in _worked(folder, TORCHRUNS)


def _worked(folder: Path, key: str, own: str | None = None) -> list[str]:
    """The SLURM jobs or torchruns that have worked on a sweep, and one that is about to."""
    stored = (described(folder) or {}).get(key)
    found = [str(each) for each in stored] if isinstance(stored, list) else []
    return [*found, own] if own and own not in found else found


def is_whole(folder: Path, jobs: int) -> bool:
    """Whether all jobs of a sweep have been trained and scored, or were pruned by its search."""
    return all(is_over(folder / str(number)) for number in range(jobs))


def remove_empty(folder: Path) -> bool:
    """Remove the empty folders that Hydra made for jobs, and the sweep's folder if all of them were empty.

    Returns whether the sweep's folder is gone.
    """
    for job in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # a file, or a folder that is not empty
            job.rmdir()
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(OWN_FILES):
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for each in (folder, *folder.parents[:2]):  # outputs/sweeps/<time>
                each.rmdir()
    return not folder.is_dir()
