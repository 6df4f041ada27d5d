"""The two sides of a comparison: runs of a kind against runs of another, pair by pair."""

from fastconv.analysis.checkpoint import TrainedRun
from fastconv.config.resume import hparams
from fastconv.runs.hparams import is_augmented, is_seed
from fastconv.system.errors import InputError


def require_alike(first: list[TrainedRun], second: list[TrainedRun]) -> None:
    """Raise InputError unless runs see the same data, and those of a side differ in their seeds alone, pair by pair."""
    one = first[0]
    for other in (*first, *second):
        if other.classes != one.classes:
            missing = sorted(set(one.classes) ^ set(other.classes)) or ["their order"]
            raise InputError(
                f"{one.folder} and {other.folder} tell other classes apart ({', '.join(missing[:5])}): give runs of the"
                " same data set"
            )
        if (other.config.dataset.name, other.shape) != (one.config.dataset.name, one.shape):
            raise InputError(
                f"{one.folder} is of {one.config.dataset.name} and {other.folder} of {other.config.dataset.name}:"
                " give runs of the same data set"
            )
    for key, side in (("run", first), ("against", second)):
        found = [hparams(run.config) for run in side]
        for run, values in zip(side[1:], found[1:], strict=True):
            differing = [name for name in values if values[name] != found[0].get(name)]
            if other := [name for name in differing if not is_seed(name)]:
                raise InputError(
                    f"{key}: {side[0].folder} and {run.folder} differ in {other[0]}, and not in their seeds alone"
                )
        if len({run.config.seed for run in side}) < len(side):
            raise InputError(f"{key} names runs of the same seed: give one for each seed")
    if len(first) > 1 and second and [run.config.seed for run in first] != [run.config.seed for run in second]:
        raise InputError("run and against have other seeds: give them in the same order, so that they make pairs")


def names_of(first: TrainedRun, second: TrainedRun | None) -> list[str]:
    """What to call runs: what differs between their configurations, else their folders."""
    if second is None:
        return [first.name]
    ours, theirs = (hparams(run.config) for run in (first, second))
    keys = [key for key in ours if ours[key] != theirs.get(key) and not is_seed(key)]
    augmented = [is_augmented(values) for values in (ours, theirs)]
    if all(key.startswith("augment.") for key in keys) and len(set(augmented)) == 2:
        return ["with augmentation" if each else "without augmentation" for each in augmented]
    if 0 < len(keys) <= 2:
        return [", ".join(f"{key}={values[key]}" for key in keys) for values in (ours, theirs)]
    named = [run.name for run in (first, second)]
    if named[0] != named[1]:
        return named
    return [f"{run.folder.resolve().parent.name}/{run.name}" for run in (first, second)]
