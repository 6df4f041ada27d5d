"""Groups of runs that differ only in their seeds: the settings that distinguish them, and their statistics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.comparison.verdicts import judge
from fastconv.runs.collection import Entry, as_text
from fastconv.runs.hparams import is_location, is_seed, without_seeds
from fastconv.runs.results import ACCURACIES, OBJECTIVES, Results

# Settings that are preferred when a short label has to distinguish groups.
FIRST = ("dataset.name", "model.name", "experiment")
# Results that distinguish groups of equal settings.
OF_RESULTS = ("device", "precision", "test_digest", "train_digest")
# Digits of a digest that a name has.
SHOWN_DIGITS = 8


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone, trained on the same kind of device.

    `values` are the settings that distinguish it from the other groups; `verdict` is one of
    `fastconv.analysis.comparison.verdicts`, or empty.
    """

    values: dict[str, Any]
    entries: list[Entry]
    verdict: str = ""
    images: str = ""
    """What tells its images from those of other groups of its data set: digits of digests, or the held-out part."""

    @property
    def dataset(self) -> str:
        """Name of the data set of its runs, with `images` where the name alone does not tell it from others."""
        name = as_text(self.setting("dataset"))
        return f"{name} ({self.images})" if self.images else name

    @property
    def finished(self) -> list[Results]:
        """The results of its runs that were trained and scored."""
        return [entry.results for entry in self.entries if entry.problem is None and entry.results is not None]

    @property
    def problems(self) -> list[Entry]:
        """Its runs that failed, were pruned or are not finished."""
        return [entry for entry in self.entries if entry.problem is not None]

    @property
    def pruned(self) -> int:
        """Number of its runs that a search ended early."""
        return sum(entry.is_pruned for entry in self.entries)

    def setting(self, key: str) -> Any:
        """A setting that all its runs share."""
        return self.entries[0].setting(key)

    def by_seed(self, key: str) -> list[float]:
        """A result of each of its seeds that have it. Runs that repeat a seed count once, by their mean."""
        found: dict[tuple[int, int], list[float]] = {}
        for run in self.finished:
            if (value := as_number(getattr(run, key))) == value:
                found.setdefault((run.seed, run.stream_seed), []).append(value)
        return [float(np.mean(values)) if len(values) > 1 else values[0] for values in found.values()]

    def summary(self, key: str) -> Summary:
        """A result over its seeds, such as `accuracy`."""
        return summarise(self.by_seed(key))


def as_number(value: Any) -> float:
    """A result that is a number, else NaN."""
    return float(value) if isinstance(value, int | float) else float("nan")


def varied_settings(groups: Sequence[Group]) -> list[str]:
    """The settings of which groups have several values."""
    keys = groups[0].values if groups else ()
    return [key for key in keys if len({as_text(group.values[key]) for group in groups}) > 1]


def names_of(groups: Sequence[Group]) -> list[str]:
    """Name each group by the settings in which they differ."""
    keys = varied_settings(groups)
    return [", ".join(f"{key}={as_text(group.values[key])}" for key in keys) or "all runs" for group in groups]


def by_dataset(groups: list[Group]) -> dict[str, list[Group]]:
    """Sort groups by data set: only groups of the same one, scored on the same images, can be compared."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.dataset, []).append(group)
    return found


def group_runs(entries: list[Entry], measure: str = "accuracy") -> list[Group]:
    """Group runs that differ in their seeds alone, the best group first; `measure` is one of `results.MEASURES`."""
    members = _with_images([Group({}, runs) for runs in _of_a_kind(entries)], measure)
    keys = distinguishing_keys([group.entries for group in members])
    groups = [replace(group, values={key: _shared(group.entries, key) for key in keys}) for group in members]
    summed = [(group, group.summary(measure)) for group in groups]
    summed.sort(key=lambda pair: pair[1].mean if pair[1].n else -1, reverse=True)
    return _judged(summed)


def choose_measure(entries: list[Entry]) -> str:
    """Choose the result to compare runs by: their objective if they share one, else accuracy.

    Of held-out images if every finished run has it, else of the test images.
    """
    finished = [entry for entry in entries if entry.problem is None and entry.results is not None]
    (objective, *others) = {entry.objective for entry in finished} or {"accuracy"}
    measure = objective if not others and objective in OBJECTIVES else "accuracy"
    held_out = f"{measure}_holdout"
    return held_out if finished and all(getattr(entry.results, held_out) is not None for entry in finished) else measure


def further_objectives(entries: list[Entry], measure: str) -> list[str]:
    """The results, besides `measure`, in which each class counts the same, and accuracy.

    None where all runs are judged, and compared, by their accuracy.
    """
    if measure in ACCURACIES and all(entry.objective == "accuracy" for entry in entries):
        return []
    ending = "_holdout" * ("_holdout" in measure)
    return [name for each in OBJECTIVES if (name := f"{each}{ending}") != measure]


def _of_a_kind(entries: list[Entry]) -> list[list[Entry]]:
    """Group runs of equal hyperparameters but for seeds, on the same device, trained and scored on the same images; a
    run that failed before it had a device joins the first group of its hyperparameters."""
    members: dict[tuple[str, Any], list[Entry]] = {}
    first: dict[str, tuple[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: _kind(entry) is None):
        identity = json.dumps(without_seeds(entry.hparams), sort_keys=True, default=str)
        kind = _kind(entry)
        key = first.get(identity, (identity, kind)) if kind is None else (identity, kind)
        first.setdefault(identity, key)
        members.setdefault(key, []).append(entry)
    return list(members.values())


def _kind(entry: Entry) -> tuple[str | None, ...] | None:
    """The properties that runs must share besides their hyperparameters: device, precision, and images by their
    digests."""
    results = entry.results
    if results is None or not results.device:
        return None
    return results.device, results.precision, results.test_digest, results.train_digest


def _with_images(groups: list[Group], measure: str) -> list[Group]:
    """Tell data sets of one name apart by their images: folders of equal names may be anybody's, and they grow."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for group in groups:
        if group.finished:
            found.setdefault(group.dataset, set()).add(_images(group, measure))
    told = []
    for group in groups:
        parts = zip(_images(group, measure), *found.get(group.dataset, ()), strict=True)
        told.append(replace(group, images=", ".join(own for own, *all_ in parts if own and len(set(all_)) > 1)))
    return told


def _images(group: Group, measure: str) -> tuple[str, ...]:
    """Which images a group was scored on and trained on, in words for a name; empty where nothing is known of them."""
    test, train = (
        next((found for run in group.finished if (found := getattr(run, key))), "")[:SHOWN_DIGITS]
        for key in ("test_digest", "train_digest")
    )
    share, seed = (group.setting(f"dataset.{key}") for key in ("holdout", "holdout_seed"))
    is_held_out = "_holdout" in measure and share is not None
    return (
        test,
        train and f"trained on {train}",
        f"{as_text(share)} held out" if is_held_out else "",
        f"by seed {as_text(seed)}" if is_held_out else "",
    )


def _shared(entries: list[Entry], key: str) -> Any:
    return next((value for value in (entry.value(key) for entry in entries) if value is not None), None)


def _text(value: Any) -> str:
    """A value as a text that differs between any two values."""
    return repr(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)


def distinguishing_keys(groups: list[list[Entry]]) -> list[str]:
    """Return the settings that distinguish groups: all that were set and differ, and the fewest others needed."""
    written = dict.fromkeys(key for group in groups for entry in group for key in entry.written if not is_location(key))
    composed = dict.fromkeys(key for group in groups for entry in group for key in entry.hparams)
    chosen: list[str] = []
    parts = [""] * len(groups)
    for key in (*written, *(key for key in FIRST if key in composed), *composed, *OF_RESULTS):
        if is_seed(key) or key in chosen or (key not in written and len(set(parts)) == len(groups)):
            continue
        values = [{_text(value) for entry in group if (value := entry.value(key)) is not None} for group in groups]
        ones = [next(iter(each), "") for each in values]
        if any(len(each) > 1 for each in values) or len(set(ones)) == 1:  # it varies within a group, or not at all
            continue
        finer = [f"{part}|{one}" for part, one in zip(parts, ones, strict=True)]
        if key in written or len(set(finer)) > len(set(parts)):
            chosen.append(key)
            parts = finer
    return chosen


def _judged(groups: list[tuple[Group, Summary]]) -> list[Group]:
    """Give each group that has results its verdict among those of its data set."""
    places: dict[str, list[int]] = {}
    for place, (group, _) in enumerate(groups):
        places.setdefault(group.dataset, []).append(place)
    verdicts = [""] * len(groups)
    for some in places.values():
        for place, verdict in zip(some, judge([groups[place][1] for place in some]), strict=True):
            verdicts[place] = verdict
    return [replace(group, verdict=verdict) for (group, _), verdict in zip(groups, verdicts, strict=True)]


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the (seconds, accuracy) points that no other beats in both, by rising seconds."""
    front, highest = [], float("-inf")
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if points[index][1] > highest:
            front.append(index)
            highest = points[index][1]
    return front
