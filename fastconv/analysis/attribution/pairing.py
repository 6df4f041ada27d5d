"""Pairs of runs to compare: runs that differ in their seeds alone against such runs of other settings."""

from typing import Any

from fastconv.analysis.checkpoint import TrainedRun
from fastconv.config.run_settings import hparams
from fastconv.runs.hparams import LATER, is_augmented, is_seed
from fastconv.system.errors import InputError


def require_alike(first: list[TrainedRun], second: list[TrainedRun]) -> None:
    """Raise InputError unless all runs have the same data, those of a group differ only in seeds, and seeds match."""
    one = first[0]
    for other in (*first, *second):
        if other.classes != one.classes:
            missing = sorted(set(one.classes) ^ set(other.classes)) or ["their order"]
            raise InputError(
                f"{one.folder} and {other.folder} have different classes ({', '.join(missing[:5])}): give runs of the"
                " same data set"
            )
        if (other.config.dataset.name, other.shape) != (one.config.dataset.name, one.shape):
            raise InputError(
                f"{one.folder} was trained on {one.config.dataset.name} and {other.folder} on"
                f" {other.config.dataset.name}: give runs of the same data set"
            )
        if other.resize != one.resize:
            raise InputError(
                f"{one.folder} was trained with dataset.resize={one.resize} and {other.folder} with {other.resize}:"
                " give runs with the same dataset.resize"
            )
    for key, group in (("run", first), ("against", second)):
        found = [_settings(run) for run in group]
        for run, values in zip(group[1:], found[1:], strict=True):
            names = [name for name in {**found[0], **values} if not is_seed(name)]
            differing = [name for name in names if values.get(name) != found[0].get(name)]
            if differing:
                raise InputError(
                    f"{key}: {group[0].folder} and {run.folder} differ in {differing[0]}, not only in their seeds"
                )
        if len({run.config.seed for run in group}) < len(group):
            raise InputError(f"{key} names runs of the same seed: give one for each seed")
    if len(first) > 1 and second and [run.config.seed for run in first] != [run.config.seed for run in second]:
        raise InputError("run and against have different seeds: give the same seeds in the same order, to make pairs")


def names_of(first: TrainedRun, second: TrainedRun | None) -> list[str]:
    """Name two groups of runs by what differs between their configurations, else by their folders."""
    if second is None:
        return [first.name]
    ours, theirs = (_settings(run) for run in (first, second))
    keys = [key for key in ours if ours[key] != theirs.get(key) and not is_seed(key)]
    augmented = [is_augmented(values) for values in (ours, theirs)]
    if all(key.startswith("augment.") for key in keys) and len(set(augmented)) == 2:
        return ["with augmentation" if each else "without augmentation" for each in augmented]
    if 0 < len(keys) <= 2:
        return [", ".join(f"{key}={values.get(key)}" for key in keys) for values in (ours, theirs)]
    named = [run.name for run in (first, second)]
    if named[0] != named[1]:
        return named
    return [f"{run.folder.resolve().parent.name}/{run.name}" for run in (first, second)]


def _settings(run: TrainedRun) -> dict[str, Any]:
    """The hyperparameters of a run by key, also those that are left out at their default."""
    return {**LATER, **hparams(run.config)}
