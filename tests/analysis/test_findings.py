"""The sentences of a report and their statistics, against scipy."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from fastconv.analysis.attribution.attribution_run import ExplainedRun
from fastconv.analysis.attribution.findings import (
    accuracy_sentence,
    beats_random,
    depends_on_weights,
    differences,
    maps_sentence,
    trust_sentence,
)

TITLES = {"good": "Good", "poor": "Poor"}
NAMES = ("plain", "changed")


def explained(accuracy: float | None, seed: int = 0, shift: float = 0.0, n: int = 40) -> ExplainedRun:
    """A run whose method `good` beats random heatmaps and whose `poor` gains less than its spread can tell."""
    generator = np.random.default_rng(seed)
    measures = {}
    for name, gain, spread in (("good", 0.2, 0.05), ("poor", 0.001, 0.02)):
        random = generator.normal(0.5, 0.05, n)
        measures[name] = {
            "deletion": random - gain - spread * (-1.0) ** np.arange(n),
            "deletion_random": random,
            "half_area": generator.normal(0.3, 0.01, n) + shift,
            "repeated": np.full(n, 0.9) + generator.normal(0, 0.01, n),
            "randomised": generator.normal(0, 0.1, n),
        }
    run = SimpleNamespace(results=None if accuracy is None else SimpleNamespace(accuracy=accuracy))
    maps = {name: np.zeros((n, 2, 2)) for name in TITLES}
    return ExplainedRun(run, np.zeros((n, 2)), np.zeros(n, int), maps=maps, measures=measures)


@pytest.mark.parametrize("second", [(0.90, 0.91, 0.92), (0.94, 0.86, 0.95)])
def test_accuracy_is_judged_as_scipy_does(second):
    first = (0.93, 0.935, 0.95)
    sentence = accuracy_sentence(NAMES, [explained(value) for value in first], [explained(value) for value in second])
    test = ttest_rel(second, first)
    low, high = (100 * bound for bound in test.confidence_interval(0.95))
    assert f"95 % interval {low:+.2f} to {high:+.2f}, 3 pairs of seeds" in sentence
    assert ("beyond the seeds' spread" in sentence) == (test.pvalue < 0.05)


def test_one_pair_and_no_accuracy():
    assert "one run each: -3.00 points" in accuracy_sentence(NAMES, [explained(0.93)], [explained(0.90)])
    sides = [explained(0.93), explained(None)], [explained(0.90), explained(0.99)]
    assert "93.00 % plain, 90.00 % changed, one run each" in accuracy_sentence(NAMES, *sides)
    assert accuracy_sentence(NAMES, [explained(None)], [explained(0.9)]) == "The runs have no test accuracy."


def test_differences_are_paired_by_seed():
    first = [explained(0.9, seed) for seed in range(3)]
    second = [explained(0.9, seed + 10, shift=0.1) for seed in range(3)]
    found = {(each.method, each.measure): each for each in differences(first, second)}
    assert not {"deletion", "deletion_random"} & {measure for _, measure in found}
    change = found["good", "half_area"].change
    values = [[run.measures["good"]["half_area"].mean() for run in side] for side in (first, second)]
    assert change.mean == pytest.approx(np.mean(np.subtract(values[1], values[0])))
    assert (change.n, change.is_significant) == (3, ttest_rel(*values).pvalue < 0.05)
    assert "area that holds half of the attribution by Good" in maps_sentence(NAMES, TITLES, list(found.values()), 3)
    same = differences(first, [explained(0.9, seed + 10) for seed in range(3)])
    assert "not beyond chance" in maps_sentence(NAMES, TITLES, same, 3)
    assert "takes several seeds" in maps_sentence(NAMES, TITLES, differences(first[:1], second[:1]), 1)


def test_trust_is_what_both_sides_show():
    run = explained(0.9)
    assert (beats_random([run], "good"), beats_random([run], "poor")) == (True, False)
    assert depends_on_weights([run], "poor") is True
    sentence = trust_sentence(TITLES, [("plain", [run])])
    assert sentence.startswith("1 of 2 methods finds pixels")
    assert "not better than random heatmaps: Poor (40 images)" in sentence
    other = explained(0.9, 1)
    other.measures["poor"]["deletion"] = other.measures["poor"]["deletion_random"] - np.linspace(0.1, 0.2, 40)
    assert "heatmaps: Poor (plain)" in trust_sentence(TITLES, [("plain", [run]), ("changed", [other])])
    other.measures["good"]["randomised"] = other.measures["good"]["repeated"] - 0.001 - 0.02 * (-1.0) ** np.arange(40)
    assert depends_on_weights([other], "good") is False
    assert "not dependent on the weights: Good" in trust_sentence(TITLES, [("changed", [other])])


def test_one_image_says_nothing():
    run = explained(0.9, n=1)
    assert beats_random([run], "good") is None
    assert "anecdotal" in trust_sentence(TITLES, [("plain", [run])])
