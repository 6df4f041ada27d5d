"""Sweeps: the folder that holds a sweep's runs, and which of them to go on with."""

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastconv.data.storage import unwritable, write_atomically
from fastconv.errors import InputError
from fastconv.recipe import is_place
from fastconv.run_folder import is_finished

# What a sweep was asked for. Hydra's own multirun.yaml is written by its basic sweeper alone.
DESCRIPTION = "sweep.yaml"
OWN_FILES = (DESCRIPTION, "multirun.yaml")
# How the jobs are started, and not what they are.
LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra.sweep.", "hydra.mode")


@dataclass(frozen=True)
class Sweep:
    """A sweep: the config of its first job, its folder, its overrides as written, and how many jobs it has."""

    first: Any
    folder: Path
    overrides: tuple[str, ...] = ()
    jobs: int = 0


def begin(sweep: Sweep) -> Sweep:
    """The sweep in the folder that it goes on in, with its description there.

    Raises InputError for a folder that cannot be written, or is no sweep's.
    """
    resume = getattr(getattr(sweep.first, "sweep", None), "resume", None)
    asked = {"overrides": _of_interest(sweep.overrides), "jobs": sweep.jobs}
    if resume == "auto":
        sweep = dataclasses.replace(sweep, folder=_newest(Path(sweep.first.outputs) / "sweeps", asked) or sweep.folder)
    elif resume is not None:
        sweep = dataclasses.replace(sweep, folder=Path(resume))
        there = sweep.folder.is_dir() and list(sweep.folder.iterdir())
        if there and not any((sweep.folder / name).exists() for name in OWN_FILES):
            raise InputError(f"sweep.resume={resume} is not the folder of a sweep: it has no {DESCRIPTION}")
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(sweep.folder / DESCRIPTION, yaml.safe_dump(asked, sort_keys=False).encode())
    except OSError as error:
        raise unwritable(sweep.folder, error) from error
    return sweep


def override_of(folder: Path) -> str:
    """The override that has Hydra put a sweep's runs into a folder."""
    # Hydra takes a backslash as it is, but for those before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(folder))
    return f"hydra.sweep.dir='{quoted}'"


def _of_interest(overrides: tuple[str, ...]) -> list[str]:
    """The overrides that decide which runs a sweep has."""
    keys = {text: text.lstrip("+").partition("=")[0] for text in overrides}
    return [text for text in overrides if not is_place(keys[text]) and not keys[text].startswith(LAUNCHING)]


def _newest(parent: Path, asked: dict[str, Any]) -> Path | None:
    """The newest sweep that was asked for the same and has jobs to do; None if there is none."""
    found = sorted(parent.glob(f"*/{DESCRIPTION}"), key=lambda path: path.parent.name, reverse=True)
    for path in found:
        try:
            same = yaml.safe_load(path.read_text()) == asked
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        if same and not is_whole(path.parent, asked["jobs"]):
            return path.parent
    return None


def is_whole(folder: Path, jobs: int) -> bool:
    """Whether all jobs of a sweep are trained and scored."""
    return all(is_finished(folder / str(number)) for number in range(jobs))


def remove_empty(folder: Path) -> bool:
    """Remove the folders that Hydra made for jobs which left nothing in them, and the sweep's if all did.

    Returns whether nothing is left.
    """
    for job in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # a file, or there is something in it
            job.rmdir()
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(OWN_FILES):
        for name in OWN_FILES:
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for each in (folder, *folder.parents[:2]):  # outputs/sweeps/<time>
                each.rmdir()
    return not folder.is_dir()
