"""Measures of a confusion matrix, against scikit-learn's of the labels and predictions themselves."""

import numpy as np
import pytest
from sklearn import metrics

from fastconv.analysis.evaluation.per_class import balanced_accuracy, kappa, macro_f1


@pytest.mark.parametrize("right", [0.2, 0.6, 1.0])
def test_measures_are_those_of_scikit_learn(right):
    chance = np.random.default_rng(3)
    labels = chance.choice(5, 400, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    predictions = np.where(chance.random(400) < right, labels, chance.integers(0, 5, 400))
    confusion = metrics.confusion_matrix(labels, predictions)
    assert kappa(confusion) == pytest.approx(metrics.cohen_kappa_score(labels, predictions))
    assert balanced_accuracy(confusion) == pytest.approx(metrics.balanced_accuracy_score(labels, predictions))
    assert macro_f1(confusion) == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        ([[30, 0], [10, 0]], 0),  # always the most frequent class: 75 % right, and nothing learned
        ([[0, 9], [9, 0]], 0),  # worse than chance
        ([[5, 0], [0, 0]], 1),  # images of one class only, all right
    ],
)
def test_kappa_at_its_ends(confusion, expected):
    assert kappa(np.array(confusion)) == expected
