"""The evaluation of a run, against scikit-learn's and torchmetrics' metrics of the same predictions."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import run_command
from scipy.sparse import coo_array
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from fastconv.analysis import run_figures
from fastconv.analysis.evaluation import metrics as evaluating
from fastconv.analysis.evaluation.metrics import Evaluation, wilson
from fastconv.analysis.evaluation.report import write_run_page
from fastconv.data.loading import load
from fastconv.runs.results import Results
from fastconv.system.json_text import as_json


@pytest.fixture
def evaluation():
    """Predictions of 500 images of 12 imbalanced classes, as of a network that has learnt a little."""
    generator = np.random.default_rng(0)
    labels = generator.choice(12, 500, p=np.arange(1, 13) / 78)
    logits = generator.normal(size=(500, 12))
    logits[np.arange(500), labels] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Evaluation(probabilities, labels, tuple(f"class {at}" for at in range(12)))


def test_measures_are_those_of_libraries(evaluation):
    labels, predicted = evaluation.labels, evaluation.probabilities.argmax(1)
    assert evaluation.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert evaluation.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert evaluation.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert evaluation.top_k_accuracy(5) == pytest.approx(
        metrics.top_k_accuracy_score(labels, evaluation.probabilities, k=5)
    )
    np.testing.assert_array_equal(evaluation.confusion, metrics.confusion_matrix(labels, predicted))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(labels, predicted)
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("images", images)):
        np.testing.assert_allclose([row[key] for row in evaluation.per_class], expected)
    ours = torch.tensor(evaluation.probabilities), torch.tensor(labels)
    expected = multiclass_calibration_error(*ours, num_classes=12, n_bins=15, norm="l1")
    assert evaluation.calibration_error == pytest.approx(float(expected), abs=1e-6)


def test_a_file_of_many_classes_has_the_entries_that_are_not_zero(evaluation, monkeypatch):
    """Those of thousands of classes would be millions of zeros."""
    whole = evaluation.summary()["confusion"]
    monkeypatch.setattr(evaluating, "DENSE_CLASSES", 11)
    stored = evaluation.summary()["confusion"]
    found = coo_array((stored["images"], (stored["label"], stored["prediction"])), shape=(12, 12))
    np.testing.assert_array_equal(found.toarray(), whole)
    assert min(stored["images"]) > 0


@pytest.mark.slow
def test_the_page_and_the_file_of_5000_classes_are_small(tmp_path):
    labels = np.repeat(np.arange(5000), 2)
    predicted = np.where(np.arange(10_000) % 3 > 0, labels, labels[::-1])
    probabilities = np.zeros((10_000, 5000), np.float32)
    probabilities[np.arange(10_000), predicted] = 0.9
    found = Evaluation(probabilities, labels, tuple(f"class {at}" for at in range(5000)))
    assert len(as_json(found.summary(), indent=1)) < 2e6
    config, test = (
        SimpleNamespace(dataset=SimpleNamespace(name="x"), label_smoothing=0.0),
        SimpleNamespace(images=np.zeros((10_000, 8, 8, 1), np.uint8)),
    )
    run = SimpleNamespace(folder=tmp_path, config=config, name="x", results=None)
    write_run_page(tmp_path / "report.html", run, found, test, [])
    assert (tmp_path / "report.html").stat().st_size < 2e6


def test_the_interval_holds_what_it_promises():
    """Wilson's published example, and the share of intervals that hold the truth."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    generator = np.random.default_rng(0)
    holds = [low <= 0.9 <= high for low, high in (wilson(hits, 200) for hits in generator.binomial(200, 0.9, 2000))]
    assert 0.93 < np.mean(holds) < 0.97
    for count in range(1, 300):  # also where rounding misses 0 and 1
        assert wilson(0, count)[0] >= 0
        assert wilson(count, count)[1] <= 1


def test_errors_are_the_most_confident_ones(evaluation):
    rows = evaluation.most_confident_errors(10)
    wrong = evaluation.predictions != evaluation.labels
    assert wrong[rows].all()
    confidence = evaluation.probabilities.max(1)
    assert confidence[rows].min() >= np.sort(confidence[wrong])[-10]


def test_a_run_gets_its_page(tmp_path, digits_root, davidnet_run):
    run = shutil.copytree(davidnet_run, tmp_path / "run")
    ended = run_command(tmp_path, digits_root, "evaluate", f"run={run}")
    assert ended.code == 0, ended.err
    found = json.loads((run / "evaluation.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert found["accuracy"] == pytest.approx(results["accuracy"], abs=2e-3)
    assert f"Accuracy {found['accuracy']:.2%} on 359 test images" in ended.out
    page = (run / "report.html").read_text()
    _, test = load("digits", digits_root)
    assert all(f"<td>{name}</td>" in page for name in test.classes)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(re.findall(r", confidence \d+%; label ", page)) == min(24, round((1 - found["accuracy"]) * 359))


@pytest.mark.parametrize("name", ["evaluate", "explain", "export", "predict"])
def test_what_is_not_the_folder_of_a_run_is_said_at_once(command, tmp_path, name):
    """Before anything is imported that takes seconds, or a line says that it is read."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    for given, says in (
        ("run=nowhere", "run=nowhere is not the folder of a run: it is not there"),
        ("run=run", "run=run is not the folder of a run: it has no config.yaml"),
        ("run=run/last.ckpt", "run=run/last.ckpt is a file: give the folder of its run, as run=run"),
    ):
        ended = command(name, given, *["images=run/last.ckpt"] * (name == "predict"))
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), ended.err
        assert ended.err.startswith(f"fastconv: {says}")
    if name == "explain":
        assert "images=typo.png is not there" in command(name, "run=nowhere", "images=typo.png").err


def test_test_time_augmentation_is_said(tmp_path, digits_root, davidnet_run):
    """Else nobody could tell the page of one score from that of the other."""
    run = shutil.copytree(davidnet_run, tmp_path / "run")
    for setting, views in (("tta=false", 1), ("tta=true", 3)):  # two are shifted, and digits are not flipped
        ended = run_command(tmp_path, digits_root, "evaluate", f"run={run}", setting)
        assert ended.code == 0, ended.err
        assert ("on 359 test images with test-time augmentation (up to 3 views of each)" in ended.out) == (views > 1)
        assert ("with test-time augmentation" in (run / "report.html").read_text()) == (views > 1)
        assert json.loads((run / "evaluation.json").read_text())["views"] == views


def test_errors_of_a_built_in_data_set_have_rows(tmp_path, digits_root, davidnet_run):
    """Its images have no files: `row` is their place in the test split."""
    run = shutil.copytree(davidnet_run, tmp_path / "run")
    assert run_command(tmp_path, digits_root, "evaluate", f"run={run}").code == 0
    errors = json.loads((run / "evaluation.json").read_text())["most_confident_errors"]
    _, test = load("digits", digits_root)
    assert errors
    for error in errors:
        assert error["file"] is None
        assert test.classes[test.labels[error["row"]]] == error["label"] != error["prediction"]
    assert [each["confidence"] for each in errors] == sorted((each["confidence"] for each in errors), reverse=True)
    assert f"test image {errors[0]['row']}: {errors[0]['prediction']}, confidence " in (run / "report.html").read_text()


@pytest.mark.parametrize(("smoothing", "is_said"), [(0.2, True), (0.0, False)])
def test_losses_of_smoothed_labels_are_said_to_be_on_another_scale(tmp_path, monkeypatch, smoothing, is_said):
    drawn, save = [], run_figures.save
    monkeypatch.setattr(run_figures, "save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    rows = {"train/epoch": [1.0, 2.0], "train/loss": [1.0, 0.5], "train/accuracy": [0.5, 0.6]}
    results = Results(
        "digits", "davidnet", None, 0, 0, 0.5, loss=0.4, epochs=2.0, hparams={"label_smoothing": smoothing}
    )
    run_figures.draw_curves(
        {key: np.array(values) for key, values in rows.items()}, results, "title", tmp_path / "c.png"
    )
    loss, accuracy = drawn[0].axes
    assert ("on another scale" in loss.get_title()) == is_said
    assert not accuracy.get_title()
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (loss, accuracy)]
    assert labels[0][0] == ("training (labels smoothed by 0.2)" if is_said else "training")
    assert labels[1][0] == "training"
