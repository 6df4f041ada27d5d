"""Statistics of an explanation's measures, and the sentences that state its findings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from fastconv.analysis.attribution.attribution_run import ExplainedRun
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.system.wording import agreeing, counted


@dataclass(frozen=True)
class Measure:
    """A measure of each image's map: its name, its definition, and whether `low` or `high` is better."""

    title: str
    definition: str
    better: str | None = None
    percent: bool = False

    def text(self, value: float) -> str:
        """Format a value for a reader."""
        if not np.isfinite(value):
            return "-"
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}"


MEASURES = {
    "deletion": Measure(
        "deletion", "area under the class's probability while pixels go, highest attribution first", "low"
    ),
    "deletion_random": Measure("deletion, random", "the same for random heatmaps as coarse as the method's"),
    "insertion": Measure(
        "insertion", "area under the class's probability while pixels come, highest attribution first", "high"
    ),
    "insertion_random": Measure("insertion, random", "the same for random heatmaps"),
    "deletion_gain": Measure("gain in deletion", "deletion of random heatmaps less that of the map", "high"),
    "insertion_gain": Measure("gain in insertion", "insertion of the map less that of random heatmaps", "high"),
    "infidelity": Measure(
        "infidelity",
        "share of the logit's changes that the map does not predict when squares are removed, with the best factor of"
        " either sign for each image",
        "low",
    ),
    "sensitivity": Measure("max-sensitivity", "largest change of the map when pixels change by up to 0.02", "low"),
    "on_object": Measure(
        "on the object",
        "share of the evidence for the class that lies on pixels of the object; all of it by construction where a"
        " method weighs pixels by their distance from a black baseline",
        None,
        True,
    ),
    "half_area": Measure(
        "area that holds half of the attribution",
        "smallest share of the pixels that holds half of the absolute attribution",
        None,
        True,
    ),
    "gap": Measure(
        "completeness gap",
        "relative difference of the map's sum to the logit's difference to the baseline; the median over images",
        "low",
        True,
    ),
    "repeated": Measure(
        "repeatability", "rank correlation of the network's maps of an image under slight noise of two seeds", "high"
    ),
    "randomised": Measure(
        "randomised weights", "rank correlation of the network's map with that of one with random weights", "low"
    ),
}  # fmt: skip


def of_images(runs: list[ExplainedRun], method: str, measure: str) -> np.ndarray:
    """Return a measure of each image, the mean over runs, float64 [n]; empty if the method does not have it."""
    found = [run.measures[method][measure] for run in runs if measure in run.measures.get(method, {})]
    return np.mean(found, axis=0) if found else np.array([])


def of_runs(runs: list[ExplainedRun], method: str, measure: str) -> np.ndarray:
    """Return a measure of each run over its images, float64 [runs]: the mean, or the median of a gap.

    A gap is a share of a difference that may be near zero, so that one image could decide the mean.
    """
    values = [run.measures[method][measure] for run in runs]
    return np.array([np.nanmedian(each) if measure == "gap" else summarise(each).mean for each in values])


def summarise_runs(runs: list[ExplainedRun], method: str, measure: str) -> Summary:
    """Summarise a measure over the runs where there are several, else over the images; n is 0 if there is none."""
    if any(measure not in run.measures.get(method, {}) for run in runs):
        return summarise([])
    if len(runs) > 1 or measure == "gap":
        return summarise(of_runs(runs, method, measure))
    return summarise(of_images(runs, method, measure))


def beats_random(runs: list[ExplainedRun], method: str) -> bool | None:
    """Say whether deletion by the method's maps is significantly better than by random ones; None if not measured."""
    deletion, random = (of_images(runs, method, name) for name in ("deletion", "deletion_random"))
    return _is_gain(summarise(random - deletion)) if len(deletion) else None


def depends_on_weights(runs: list[ExplainedRun], method: str) -> bool | None:
    """Say whether maps depend significantly on the weights; None if not measured.

    They do if maps repeat better under noise than they resemble those of random weights (Adebayo et al. 2018).
    """
    repeated, randomised = (of_images(runs, method, name) for name in ("repeated", "randomised"))
    return _is_gain(summarise(repeated - randomised)) if len(repeated) else None


def _is_gain(gain: Summary) -> bool | None:
    return None if gain.n < 2 else gain.is_significant and gain.mean > 0


# Measures that are not compared between networks.
ABSOLUTE = ("deletion", "deletion_random", "insertion", "insertion_random", "gap")


@dataclass(frozen=True)
class Difference:
    """A measure of two groups of runs, paired by seed, or by image where there is one pair of runs."""

    method: str
    measure: str
    first: Summary
    second: Summary
    change: Summary


def difference(first: list[ExplainedRun], second: list[ExplainedRun], method: str, measure: str) -> Difference | None:
    """Compare two groups of runs, pair by pair; None if the method has no such measure."""
    if any(measure not in run.measures.get(method, {}) for run in (*first, *second)):
        return None
    of = of_runs if len(first) > 1 else of_images
    change = of(second, method, measure) - of(first, method, measure)
    before, after = (summarise_runs(runs, method, measure) for runs in (first, second))
    return Difference(method, measure, before, after, summarise(change))


def differences(first: list[ExplainedRun], second: list[ExplainedRun]) -> list[Difference]:
    """Compare every measure of every method.

    Areas are compared as gains over random heatmaps, since they depend on a network's confidence. Completeness is left
    out, as a check of the method, and so is a measure that is equal in all pairs by construction.
    """
    found = [
        difference(first, second, method, measure)
        for method in first[0].maps
        for measure in MEASURES
        if measure not in ABSOLUTE
    ]
    return [each for each in found if each is not None and each.change.n and (each.change.mean or each.change.sd)]


def accuracies(runs: list[ExplainedRun]) -> np.ndarray:
    """Return the test accuracy of each run, float64 [runs]; NaN where a run has none."""
    return np.array([np.nan if run.run.results is None or run.run.results.accuracy is None
                     else run.run.results.accuracy for run in runs])  # fmt: skip


# -- sentences


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"


def accuracy_sentence(names: Sequence[str], first: list[ExplainedRun], second: list[ExplainedRun]) -> str:
    """State the change of the test accuracy."""
    ours, theirs = accuracies(first), accuracies(second)
    both = ~np.isnan(ours + theirs)
    ours, theirs = ours[both], theirs[both]
    change = summarise(theirs - ours)
    if not change.n:
        return "The runs have no test accuracy."
    text = f"Test accuracy: {100 * np.nanmean(ours):.2f} % {names[0]}, {100 * np.nanmean(theirs):.2f} % {names[1]}"
    if change.n == 1:
        return f"{text}, one run each: {_points(change.mean)}, of which chance may be a part."
    judged = "beyond the seeds' spread" if change.is_significant else "within the seeds' spread"
    low, high = 100 * (change.mean - change.half), 100 * (change.mean + change.half)
    interval = f"95 % interval {low:+.2f} to {high:+.2f}, {change.n} pairs of seeds"
    return f"{text}: {_points(change.mean)} ({interval}), {judged}."


def maps_sentence(names: Sequence[str], titles: dict[str, str], found: list[Difference], pairs: int) -> str:
    """State how many measures of the heatmaps differ, and the clearest differences."""
    if not found:
        return "The heatmaps were not measured."
    significant = [each for each in found if each.change.is_significant]
    chance = 0.05 * len(found)
    of = f"of {pairs} pairs of runs" if pairs > 1 else "of one pair of runs, paired by image"
    text = (
        f"Heatmaps: {len(significant)} of {counted(len(found), 'measure')} {of}"
        f" {agreeing(len(significant), 'differs beyond its', 'differ beyond their')} 95 % interval; chance alone would"
        f" give about {chance:.{0 if chance >= 1 else 1}f}."
    )
    if pairs == 1:
        return f"{text} This compares these two networks; the effect of the difference in training takes several seeds."
    if binom.sf(len(significant) - 1, len(found), 0.05) > 0.05:  # as if measures were independent of each other
        return f"{text} That is not beyond chance."
    named = sorted(significant, key=lambda each: -abs(each.change.mean) / max(each.change.half, 1e-9))[:3]
    listed = "; ".join(
        f"{MEASURES[each.measure].title} by {titles[each.method]} {MEASURES[each.measure].text(each.first.mean)}"
        f" {names[0]}, {MEASURES[each.measure].text(each.second.mean)} {names[1]}"
        for each in named
    )
    return f"{text} The clearest: {listed}."


def trust_sentence(titles: dict[str, str], groups: list[tuple[str, list[ExplainedRun]]]) -> str:
    """State which methods pass the two controls in every group of runs, and what that does and does not show."""
    better, weights = (
        {name: [judge(runs, name) for _, runs in groups] for name in titles}
        for judge in (beats_random, depends_on_weights)
    )
    if all(value is None for values in (*better.values(), *weights.values()) for value in values):
        return "Without measures of several images, these heatmaps are anecdotal."

    def failing(judged: dict[str, list[bool | None]]) -> str:
        found = []
        for name, values in judged.items():
            where = [group for (group, _), value in zip(groups, values, strict=True) if value is False]
            if where:
                found.append(titles[name] + (f" ({', '.join(where)})" if len(groups) > len(where) else ""))
        return ", ".join(found)

    both = [titles[name] for name in titles if all(better[name]) and all(weights[name])]
    parts = [
        f"{len(both)} of {counted(len(titles), 'method')} {agreeing(len(both), 'finds', 'find')} pixels that matter"
        f" more to the network than those of random heatmaps, and {agreeing(len(both), 'changes', 'change')} when its"
        " weights are random" + (f": {', '.join(both)}" if 0 < len(both) < len(titles) else "")
    ]
    if named := failing(better):
        parts.append(f"not better than random heatmaps: {named}")
    if named := failing(weights):
        parts.append(f"not dependent on the weights: {named}")
    first = next(iter(titles))
    counts = [len(of_images(groups[0][1], first, measure)) for measure in ("deletion", "repeated")]
    fewer = f", for the weights {counts[1]}" * (counts[1] != counts[0])
    text = f"{'; '.join(parts)} ({counted(counts[0], 'image')}{fewer})."
    if not both:
        return text
    return f"{text} That shows which pixels the predictions depend on, and not whether they should."
