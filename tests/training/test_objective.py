"""Runs that are judged by a result in which each class counts the same."""

import json
import re

import numpy as np
import pytest
from harness import by_hand, only_run, same_weights, stop_at
from sklearn.metrics import balanced_accuracy_score, f1_score

from fastconv.data.loading import load
from fastconv.data.splits import stratified_split
from fastconv.runs.results import Results

SETTINGS = ("model=airbench", "model.widths=[8,16,16]", "optimizer=muon", "batch_size=64", "micro_batch_size=64",
            "trainer=cpu", "trainer.precision=fp32", "augment=none", "budget.seconds=null", "stream=online",
            "validate.on=none", "label_smoothing=0.2")  # fmt: skip


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Grey images of two classes that overlap, as normal distributions of brightness 1.5 standard deviations apart: 600
    dark and 24 bright ones to train on, 300 of each to test on."""
    generator = np.random.default_rng(0)
    pattern = generator.normal(0, 4, (8, 8))  # the same in all images, so that there is nothing to learn by heart

    def images(dark: int, bright: int) -> np.ndarray:
        means = generator.normal(np.repeat([100, 148], [dark, bright]), 32)
        return (means[:, None, None] + pattern).round().clip(0, 255).astype(np.uint8)

    path = tmp_path_factory.mktemp("uneven") / "uneven.npz"
    train, test = ((600, 24), (300, 300))
    names = np.array(["dark", "bright"])
    np.savez(path, images=images(*train), labels=np.repeat(names, train),
             test_images=images(*test), test_labels=np.repeat(names, test))  # fmt: skip
    return path


def squeezed(text: str) -> str:
    """A table's text without its lines and line breaks."""
    return re.sub(r"[\s│]+", " ", text)


def test_a_rare_class_is_found(command, tmp_path, uneven):
    found, printed = {}, {}
    for objective in ("accuracy", "balanced_accuracy"):
        given = ("dataset=arrays", f"dataset.root={uneven}", "dataset.image_size=8", *SETTINGS,
                 "schedule.max_epochs=8", f"objective={objective}", f"outputs={objective}")  # fmt: skip
        ended = command("train", *given)
        assert ended.code == 0, ended.err
        found[objective] = Results.read(only_run(tmp_path / objective))
        printed[objective] = squeezed(ended.out)
    # By theory 0.52 for a threshold that fits the training images, and 0.77 for one in the middle.
    assert found["accuracy"].balanced_accuracy < 0.65 < 0.7 < found["balanced_accuracy"].balanced_accuracy
    assert found["balanced_accuracy"].steps == found["accuracy"].steps
    assert "objective" not in found["accuracy"].hparams, "as of runs before there was one"
    assert found["balanced_accuracy"].hparams["objective"] == "balanced_accuracy"
    assert (
        "imbalance class dark has 600 training images, class bright has 24: objective=balanced_accuracy"
        in printed["accuracy"]
    )
    line = "of another: an image of class bright (of 24) comes 13 times, one of class dark (of 600) 0.52 times"
    assert line in printed["balanced_accuracy"]
    assert "imbalance" not in printed["balanced_accuracy"]
    # In the results, against scikit-learn on predictions of the stored weights alone.
    run = only_run(tmp_path / "balanced_accuracy")
    with np.load(uneven) as stored:
        labels, images = stored["test_labels"], stored["test_images"][..., None]
    predicted = np.array(["bright", "dark"])[by_hand(run, images).argmax(1)]
    results = found["balanced_accuracy"]
    assert results.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-6)
    assert results.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    ended = command("evaluate", f"run={run}")
    assert ended.code == 0, ended.err
    expected = f"Balanced accuracy {results.balanced_accuracy:.2%}, macro F1 {results.macro_f1:.3f}"
    assert f"{expected}; it was trained for balanced accuracy." in ended.out
    assert expected in (run / "report.html").read_text()
    rows = json.loads(command("compare", "runs=[accuracy,balanced_accuracy]", "format=json").out)
    assert {row["balanced_accuracy"] for row in rows} == {each.balanced_accuracy for each in found.values()}


def test_held_out_images_are_scored_by_class_too(command, tmp_path, digits_root):
    given = ("dataset=digits", *SETTINGS, "schedule.max_epochs=1", "dataset.holdout=0.3", "validate.on=holdout",
             "objective=macro_f1")  # fmt: skip
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path / "outputs")
    train, _ = load("digits", digits_root)
    held = train.take(stratified_split(train, 0.3, 0)[1])
    predicted = by_hand(run, held.images).argmax(1)
    results = Results.read(run)
    assert results.accuracy_holdout == pytest.approx((predicted == held.labels).mean(), abs=1e-6)
    assert results.balanced_accuracy_holdout == pytest.approx(balanced_accuracy_score(held.labels, predicted), abs=1e-6)
    assert results.macro_f1_holdout == pytest.approx(f1_score(held.labels, predicted, average="macro"), abs=1e-6)
    assert f"macro F1 {results.macro_f1_holdout:.3f}" in squeezed(ended.out)


def test_a_run_goes_on_with_the_images_of_its_objective(command, tmp_path, monkeypatch):
    given = ("dataset=digits", *SETTINGS, "schedule.max_epochs=1.2", "objective=macro_f1", "checkpoint.every=null")
    assert command("train", *given, "outputs=whole").code == 0
    stop_at(monkeypatch, "training_step", 24)  # in the second epoch
    stopped = command("train", *given, "outputs=parts")
    monkeypatch.undo()
    assert stopped.code == 143
    run = only_run(tmp_path / "parts")
    assert command("train", f"resume={run}").code == 0
    assert Results.read(run).resumed == 1
    assert same_weights(run, only_run(tmp_path / "whole"))
    refused = command("train", f"resume={run}", "objective=accuracy")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_equal_classes_need_no_stream_of_their_own(command, tmp_path):
    """The images are those of a run that is judged by accuracy, and so are the weights."""
    labels = np.repeat(np.arange(4), 16)
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8), np.uint8)
    np.savez(tmp_path / "even.npz", images=images, labels=labels, test_images=images[:8], test_labels=labels[:8])
    for objective in ("accuracy", "macro_f1"):
        ended = command("train", "dataset=arrays", "dataset.root=even.npz", "dataset.image_size=8", *SETTINGS,
                        "schedule.max_epochs=1", f"objective={objective}", f"outputs={objective}")  # fmt: skip
        assert ended.code == 0, ended.err
    assert same_weights(only_run(tmp_path / "accuracy"), only_run(tmp_path / "macro_f1"))
