"""Finds the runs below some folders, with their settings and their results or the reason why there are none."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastconv.runs.folder import is_finished
from fastconv.runs.hparams import LATER, hparams_of
from fastconv.runs.legacy import current_settings
from fastconv.runs.results import PRUNED, Results, readable
from fastconv.system.documents import read_yaml
from fastconv.system.errors import InputError, nearest
from fastconv.system.names import printable
from fastconv.system.wording import counted

# What a run was called. Its results say it as it was meant, the overrides as it was quoted.
LABELS = ("name", "tags")


@dataclass(frozen=True)
class Entry:
    """A run that was found on disk.

    `hparams` holds all settings that decided what it computed, by key, such as `optimizer.max_lr`; `written` the
    overrides that it was started with, such as `schedule`; `problem` the reason why it has no results, or None.
    """

    folder: Path
    hparams: dict[str, Any]
    written: dict[str, str]
    results: Results | None
    problem: str | None

    @property
    def is_pruned(self) -> bool:
        """Whether its search ended it early."""
        return self.results is not None and self.results.stop_reason == PRUNED

    @property
    def objective(self) -> str:
        """The result that it is judged by."""
        return as_text(self.hparams.get("objective", LATER["objective"]))

    def setting(self, key: str) -> Any:
        """A setting as composed; a group such as `schedule` by its option, or the override as written; else None."""
        for known in (key, f"{key}.name"):
            if known in self.hparams:
                return self.hparams[known]
        return self.written.get(key, LATER.get(key) if self.hparams else None)

    def has(self, key: str) -> bool:
        """Whether there is such a setting or result, even if it is null."""
        return any(key in values for values in (self.hparams, self.written, LATER)) or (
            f"{key}.name" in self.hparams or hasattr(self.results, key)
        )

    def value(self, key: str) -> Any:
        """A setting or a result, such as `accuracy`; None if there is none."""
        if key in LABELS:
            return getattr(self.results, key, None)
        found = self.setting(key)
        return getattr(self.results, key, None) if found is None else found


def find_runs(folders: list[Path]) -> list[Entry]:
    """The runs below the folders, oldest first. Raises InputError for a folder that does not exist."""
    found: dict[Path, float] = {}
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib would raise for a name that is too long
            raise InputError(
                f"runs={folder} is not a folder: give the folder that holds the runs, such as runs=outputs"
            )
        found.update(run_folders(folder))
    once = {folder.resolve(): folder for folder in found}  # one may be named twice
    return [_read(folder) for folder in sorted(once.values(), key=found.__getitem__)]


def run_folders(folder: Path) -> dict[Path, float]:
    """Every run below a folder, and the time of its config in seconds since the epoch."""
    found = {}
    for parent, below, files in os.walk(folder):
        if "config.yaml" in files and "experiment" not in below:  # else it is fastconv's own conf
            below.clear()  # a run holds no other runs
            with suppress(FileNotFoundError):  # a run that is refused removes its folder
                found[Path(parent)] = os.lstat(os.path.join(parent, "config.yaml")).st_mtime
    return found


def newest_finished(outputs: Path) -> Path:
    """The folder of the run below `outputs` that was trained and scored last. Raises InputError if there is none."""
    found = [folder for folder in run_folders(outputs) if is_finished(folder)]
    if not found:
        raise InputError(f"no finished run below {outputs}: train one with fastconv train, or give its folder")
    return max(found, key=lambda folder: (os.lstat(folder / "results.json").st_mtime_ns, folder))


def _read(folder: Path) -> Entry:
    try:
        results = Results.read(folder)
        problem = results.error or _why_without(results)
    except FileNotFoundError:
        results, problem = None, "unfinished: no results.json"
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        results, problem = None, printable(f"results.json cannot be read: {why}")
    hparams = results.hparams if results else {}
    overrides = results.overrides if results else []
    written = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    return Entry(folder, hparams or _stored_hparams(folder), written, results, problem)


def _why_without(results: Results) -> str | None:
    """Why a run that has no error has no result; None if it has one."""
    if results.stop_reason == PRUNED:
        return f"pruned: its search ended it after {results.epochs or 0:.1f} epochs"
    return "running, or killed" if results.stop_reason is None else None


def _stored_hparams(folder: Path) -> dict[str, Any]:
    """The settings of a run whose results do not include them."""
    try:
        values = read_yaml(folder / "config.yaml")
        return readable("config", hparams_of(current_settings(values))) if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def select(entries: list[Entry], conditions: list[str]) -> list[Entry]:
    """The runs that meet the conditions, such as `dataset:mnist`; of several conditions for one key, any will do.

    Raises InputError for a key that no run has, or conditions that no run meets.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, _, value = condition.partition(":")
        wanted.setdefault(key.strip(), []).append(value.strip())
    for key in wanted:
        if not any(entry.has(key) for entry in entries):
            known = dict.fromkeys(name for entry in entries for name in (*entry.hparams, *entry.written))
            raise InputError(f"where={key}:{wanted[key][0]}: no run has a {key}{nearest(key, known)}")
    found = [
        entry
        for entry in entries
        if all(any(is_value(entry.value(key), each) for each in values) for key, values in wanted.items())
    ]
    if not found:
        looked = counted(len(entries), "run was", "runs were")
        raise InputError(f"no run has {' and '.join(conditions)}: {looked} looked at")
    return found


def is_value(value: Any, written: str) -> bool:
    """Whether a setting or a result is the value written on a command line; of a list, one of its entries may be."""
    if isinstance(value, list) and any(is_value(each, written) for each in value):
        return True
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value == float(written)
        except ValueError:
            return False
    return as_text(value) == written


def as_text(value: Any) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
