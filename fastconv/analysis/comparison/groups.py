"""Groups of runs that differ only in their seeds: the settings that distinguish them, their statistics and verdicts."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv.analysis.comparison.statistics import Summary, summarise, welch_p_value
from fastconv.runs.collection import Entry, as_text
from fastconv.runs.hparams import is_location, is_seed, without_seeds
from fastconv.runs.results import ACCURACIES, OBJECTIVES, Results

# Settings that are preferred when a short label has to distinguish groups.
FIRST = ("dataset.name", "model.name", "experiment")
# Verdicts on a group.
BEST, NOT_DIFFERENT, UNTESTED = "best", "not significantly different from the best", "untested"
# Significance level of the test: the chance of calling two groups different that are not.
SIGNIFICANCE = 0.05
# Digits of a digest that a name has.
SHOWN_DIGITS = 8
# Settings whose effects are drawn.
MOST_EFFECTS = 60


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone, trained on the same kind of device.

    `values` are the settings that distinguish it from the other groups. `verdict` is `best` for the best group of a
    data set, `not significantly different from the best` where Welch's t-test says so at 5 %, `untested` where one of
    the two has a single run, and else empty.
    """

    values: dict[str, Any]
    entries: list[Entry]
    verdict: str = ""
    images: str = ""
    """Digits of the digest of its test images, if other groups have a data set of the same name but other images."""

    @property
    def dataset(self) -> str:
        """Name of the data set of its runs, with `images` where the name alone does not tell it from others."""
        name = as_text(self.setting("dataset"))
        return f"{name} ({self.images})" if self.images else name

    @property
    def test_digest(self) -> str | None:
        """Digest of the test images that its runs were scored on; None for built-in data sets."""
        return next((run.test_digest for run in self.finished if run.test_digest), None)

    @property
    def finished(self) -> list[Results]:
        """The results of its runs that were trained and scored."""
        return [entry.results for entry in self.entries if entry.problem is None and entry.results is not None]

    @property
    def problems(self) -> list[Entry]:
        """Its runs that failed or are not finished."""
        return [entry for entry in self.entries if entry.problem is not None]

    def setting(self, key: str) -> Any:
        """A setting that all its runs share."""
        return self.entries[0].setting(key)

    def summary(self, key: str) -> Summary:
        """A result over its seeds, such as `accuracy`. Runs that repeat a seed count once, by their mean."""
        by_seed: dict[tuple[int, int], list[float]] = {}
        for run in self.finished:
            by_seed.setdefault((run.seed, run.stream_seed), []).append(as_number(getattr(run, key)))
        return summarise(float(np.mean(values)) if len(values) > 1 else values[0] for values in by_seed.values())


def as_number(value: Any) -> float:
    """A result that is a number, else NaN."""
    return float(value) if isinstance(value, int | float) else float("nan")


def names_of(groups: list[Group]) -> list[str]:
    """Name each group by the settings in which they differ."""
    keys = [key for key in groups[0].values if len({as_text(group.values[key]) for group in groups}) > 1]
    return [", ".join(f"{key}={as_text(group.values[key])}" for key in keys) or "all runs" for group in groups]


def by_dataset(groups: list[Group]) -> dict[str, list[Group]]:
    """Sort groups by data set: only groups of the same one, scored on the same images, can be compared."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.dataset, []).append(group)
    return found


def group_runs(entries: list[Entry], measure: str = "accuracy") -> list[Group]:
    """Group runs that differ in their seeds alone, the best group first; `measure` is one of `results.MEASURES`."""
    members = _with_images([Group({}, runs) for runs in _of_a_kind(entries)])
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
    """Group runs of equal hyperparameters but for seeds, on the same device and scored on the same images; a run that
    failed before it had a device joins the first group of its hyperparameters."""
    members: dict[tuple[str, Any], list[Entry]] = {}
    first: dict[str, tuple[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: _device(entry) is None):
        identity = json.dumps(without_seeds(entry.hparams), sort_keys=True, default=str)
        device = _device(entry)
        key = first.get(identity, (identity, device)) if device is None else (identity, device)
        first.setdefault(identity, key)
        members.setdefault(key, []).append(entry)
    return list(members.values())


def _with_images(groups: list[Group]) -> list[Group]:
    """Tell data sets of one name apart by their test images: folders of equal names may be anybody's."""
    digests: dict[str, set[str | None]] = {}
    for group in groups:
        if group.finished:
            digests.setdefault(group.dataset, set()).add(group.test_digest)
    return [replace(group, images=(group.test_digest or "")[:SHOWN_DIGITS])
            if len(digests.get(group.dataset, ())) > 1 else group for group in groups]  # fmt: skip


def _device(entry: Entry) -> tuple[str, str | None, str | None] | None:
    results = entry.results
    return (results.device, results.precision, results.test_digest) if results and results.device else None


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
    for key in (*written, *(key for key in FIRST if key in composed), *composed, "device", "precision", "test_digest"):
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
    """Give each group that has results its verdict."""
    best: dict[str, Summary] = {}
    judged = []
    for group, summary in groups:
        verdict = ""
        if summary.n:
            first = best.setdefault(group.dataset, summary)
            verdict = BEST if first is summary else _against(summary, first)
        judged.append(replace(group, verdict=verdict))
    return judged


def _against(ours: Summary, theirs: Summary) -> str:
    """Compare a group with the best one by Welch's t-test."""
    if min(ours.n, theirs.n) < 2:
        return UNTESTED
    if ours.sd == theirs.sd == 0:  # no spread to test by
        return NOT_DIFFERENT if ours.mean == theirs.mean else ""
    return NOT_DIFFERENT if welch_p_value(ours, theirs) > SIGNIFICANCE else ""


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the (seconds, accuracy) points that no other beats in both, by rising seconds."""
    front, highest = [], float("-inf")
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if points[index][1] > highest:
            front.append(index)
            highest = points[index][1]
    return front


@dataclass(frozen=True)
class Effect:
    """The effect of a setting: for each of its values, the results of all runs that have it."""

    key: str
    values: list[Any]
    results: list[list[float]]

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, so that a line between them means something."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


def effects(groups: list[Group], measure: str) -> list[Effect]:
    """Return the effect of each of the first settings that distinguish groups; numeric values in rising order."""
    found = []
    for key in list(groups[0].values if groups else ())[:MOST_EFFECTS]:
        by_value: dict[str, tuple[Any, list[float]]] = {}
        for group in sorted(groups, key=lambda group: group.entries[0].folder):
            results = [value for run in group.finished if (value := getattr(run, measure)) is not None]
            if results:
                by_value.setdefault(as_text(group.values[key]), (group.values[key], []))[1].extend(results)
        effect = Effect(key, *map(list, zip(*by_value.values(), strict=True))) if len(by_value) > 1 else None
        if effect and effect.is_numeric:
            order = np.argsort(effect.values)
            effect = Effect(key, [effect.values[at] for at in order], [effect.results[at] for at in order])
        if effect:
            found.append(effect)
    return found
