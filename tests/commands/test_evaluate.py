"""The evaluation of a run, against scikit-learn's and torchmetrics' measures of the same answers."""

import json

import numpy as np
import pytest
import torch
from harness import run_command
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from fastconv.analysis.evaluation.metrics import Evaluation, wilson
from fastconv.data.sources.builtin import load


@pytest.fixture
def answers():
    """Answers to 500 images of 12 uneven classes, as of a network that knows a little."""
    generator = np.random.default_rng(0)
    labels = generator.choice(12, 500, p=np.arange(1, 13) / 78)
    logits = generator.normal(size=(500, 12))
    logits[np.arange(500), labels] += 2
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Evaluation(chances, labels, tuple(f"class {at}" for at in range(12)))


def test_measures_are_those_of_libraries(answers):
    labels, said = answers.labels, answers.probabilities.argmax(1)
    assert answers.accuracy == pytest.approx(metrics.accuracy_score(labels, said))
    assert answers.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, said))
    assert answers.macro_f1 == pytest.approx(metrics.f1_score(labels, said, average="macro"))
    assert answers.top(5) == pytest.approx(metrics.top_k_accuracy_score(labels, answers.probabilities, k=5))
    np.testing.assert_array_equal(answers.confusion, metrics.confusion_matrix(labels, said))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(labels, said)
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("images", images)):
        np.testing.assert_allclose([row[key] for row in answers.per_class], expected)
    ours = torch.tensor(answers.probabilities), torch.tensor(labels)
    expected = multiclass_calibration_error(*ours, num_classes=12, n_bins=15, norm="l1")
    assert answers.calibration_error == pytest.approx(float(expected), abs=1e-6)


def test_the_interval_holds_what_it_promises():
    """Wilson's published example, and the share of intervals that hold the truth."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    generator = np.random.default_rng(0)
    holds = [low <= 0.9 <= high for low, high in (wilson(hits, 200) for hits in generator.binomial(200, 0.9, 2000))]
    assert 0.93 < np.mean(holds) < 0.97
    assert wilson(100, 100)[1] == pytest.approx(1)


def test_mistakes_are_the_surest_wrong_answers(answers):
    rows = answers.mistakes(10)
    wrong = answers.said != answers.labels
    assert wrong[rows].all()
    sure = answers.probabilities.max(1)
    assert sure[rows].min() >= np.sort(sure[wrong])[-10]


def test_a_run_gets_its_page(tmp_path, digits_root):
    given = ("model=airbench", "model.widths=[8,16,16]", "optimizer=muon", "batch_size=64", "micro_batch_size=64",
             "budget.seconds=null", "schedule.max_epochs=12", "augment=none", "outputs=runs", "figures=true")  # fmt: skip
    assert run_command(tmp_path, digits_root, "train", *given).code == 0
    run = next((tmp_path / "runs" / "digits").iterdir())
    ended = run_command(tmp_path, digits_root, "evaluate", f"run={run}")
    assert ended.code == 0, ended.err
    found = json.loads((run / "evaluation.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert found["accuracy"] == pytest.approx(results["accuracy"], abs=2e-3)
    assert f"Right for {found['accuracy']:.2%} of 359 test images" in ended.out
    page = (run / "report.html").read_text()
    _, test = load("digits", digits_root)
    assert all(f"<td>{name}</td>" in page for name in test.classes)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("sure; labelled") == min(24, round((1 - found["accuracy"]) * 359))
    ended = run_command(tmp_path, digits_root, "evaluate", "run=nowhere")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
