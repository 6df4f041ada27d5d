"""Runs that smooth labels: their temperature, where it is kept, and what uses it."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import STANDARD, by_hand, noise, only_run, run_command, spec_of

from fastconv.analysis.checkpoint import load_run
from fastconv.budget.clock import Clock
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.data.augment.plan import BalancedSampling, plan_epoch
from fastconv.data.loading import load
from fastconv.data.splits import stratified_split
from fastconv.models.temperature import fit_temperature
from fastconv.predictor import load as load_predictor
from fastconv.runs.results import Results
from fastconv.training.calibration import calibrate, calibration_images

SMOOTHED = ("dataset=digits", "model=airbench", "model.widths=[4,8,8]", "optimizer=muon", "batch_size=64",
            "micro_batch_size=64", "trainer=cpu", "trainer.precision=fp32", "label_smoothing=0.2", "augment=none",
            "budget.seconds=null", "schedule.max_epochs=4", "stream=online", "validate.on=none")  # fmt: skip


@pytest.fixture(scope="module")
def smoothed(tmp_path_factory, digits_root):
    folder = tmp_path_factory.mktemp("smoothed")
    ended = run_command(folder, digits_root, "train", *SMOOTHED)
    assert ended.code == 0, ended.err
    (only_run(folder) / "out.txt").write_text(ended.out)
    return only_run(folder)


@pytest.fixture
def run(smoothed, tmp_path):
    return shutil.copytree(smoothed, tmp_path / "outputs" / "run")


def by_hand_scaled(run, images):
    """Probabilities at the run's temperature, from those of its plain network."""
    powers = by_hand(run, images).astype(np.float64) ** (1 / Results.read(run).temperature)
    return powers / powers.sum(1, keepdims=True)


def calibration_error(probabilities, labels):
    """By its definition: over 15 bins of confidence, the distance of their mean confidence and their accuracy."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1])
    return sum(abs((confidence - right)[bins == each].sum()) for each in range(15)) / len(labels)


def test_it_is_kept_and_makes_probabilities_honest(run, digits_root):
    _, test = load("digits", digits_root)
    found = Results.read(run)
    stored = torch.load(run / "last.ckpt", weights_only=True)["temperature"]
    assert stored == found.temperature == load_run(run).temperature
    before, after = by_hand(run, test.images), by_hand_scaled(run, test.images)
    assert found.expected_calibration_error_unscaled == pytest.approx(calibration_error(before, test.labels), abs=2e-3)
    assert found.expected_calibration_error == pytest.approx(calibration_error(after, test.labels), abs=2e-3)
    assert found.expected_calibration_error < found.expected_calibration_error_unscaled / 1.5
    right = (after.argmax(1) == test.labels).mean()
    assert abs(after.max(1).mean() - right) < abs(before.max(1).mean() - right) / 4
    np.testing.assert_array_equal(after.argmax(1), before.argmax(1))
    assert found.accuracy == pytest.approx((before.argmax(1) == test.labels).mean(), abs=1e-3)
    assert "before temperature scaling" in (run / "out.txt").read_text()


def test_it_is_fitted_on_held_out_images_alone(command, tmp_path, digits_root):
    given = ("schedule.max_epochs=2", "dataset.holdout=0.2", "validate.on=holdout")
    ended = command("train", *SMOOTHED, *given)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path / "outputs")
    train, test = load("digits", digits_root)

    def of(data):
        logits = np.log(by_hand(run, data.images))  # but for what is the same for all classes
        return fit_temperature(torch.from_numpy(logits), torch.from_numpy(data.labels.copy()))

    held = train.take(stratified_split(train, 0.2, 0)[1])
    assert Results.read(run).temperature == pytest.approx(of(held), rel=1e-3)
    assert of(test) != pytest.approx(of(held), rel=0.01)


def test_predictions_and_exported_files_are_scaled(run, digits_root, command):
    _, test = load("digits", digits_root)
    expected = by_hand_scaled(run, test.images)
    predictor = load_predictor(run)
    np.testing.assert_allclose(predictor.probabilities(test.images), expected, atol=1e-4)
    padded = np.pad(test.images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = ((0.5, test.images), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:]))
    means = np.exp(sum(share * np.log(by_hand_scaled(run, images)) for share, images in views))
    np.testing.assert_allclose(
        predictor.probabilities(test.images, tta=True), means / means.sum(1, keepdims=True), atol=1e-4
    )
    ended = command("export", f"run={run}", "format=torch")
    assert ended.code == 0, ended.err
    module = torch.export.load(run / "model.pt2").module()
    np.testing.assert_allclose(module(torch.tensor(test.images)).numpy(), expected, atol=1e-4)


def test_an_evaluation_shows_both(run, command):
    ended = command("evaluate", f"run={run}")
    assert ended.code == 0, ended.err
    found, results = json.loads((run / "evaluation.json").read_text()), Results.read(run)
    assert found["temperature"] == results.temperature
    for key in ("accuracy", "expected_calibration_error", "expected_calibration_error_unscaled"):
        assert found[key] == pytest.approx(getattr(results, key), abs=2e-3)
    assert f"the error was {found['expected_calibration_error_unscaled']:.3f}" in ended.out
    assert "Before temperature scaling" in (run / "report.html").read_text()


def test_a_checkpoint_with_another_temperature_is_refused(run, command):
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    torch.save({**checkpoint, "temperature": 1.5}, run / "last.ckpt")
    ended = command("evaluate", f"run={run}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "does not belong to results.json" in ended.err


def test_a_trained_run_that_was_stopped_before_it_had_one_gets_it(run, command):
    expected, content = Results.read(run), json.loads((run / "results.json").read_text())
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    del checkpoint["temperature"]  # as earlier versions wrote it
    torch.save(checkpoint, run / "last.ckpt")
    content |= dict.fromkeys(("accuracy", "stop_reason", "temperature", "weights_digest"))
    (run / "results.json").write_text(json.dumps(content))
    ended = command("train", f"resume={run}")
    assert ended.code == 0, ended.err
    found = Results.read(run)
    assert (found.temperature, found.weights_digest) == (expected.temperature, expected.weights_digest)
    assert load_run(run).temperature == expected.temperature


def test_without_time_there_is_none(command, tmp_path, monkeypatch, digits_root):
    monkeypatch.setattr(ScoringReserve, "allows", lambda self, images, views: False)
    ended = command("train", *SMOOTHED, "schedule.max_epochs=0.2")
    assert ended.code == 0, ended.err
    run = only_run(tmp_path / "outputs")
    found = Results.read(run)
    assert (found.temperature, found.expected_calibration_error_unscaled) == (None, None)
    assert found.expected_calibration_error is not None
    images = load("digits", digits_root)[1].images[:20]
    np.testing.assert_allclose(load_predictor(run).probabilities(images), by_hand(run, images), atol=1e-4)


@pytest.mark.parametrize(("on", "ranks", "images"), [("holdout", 1, 20 + 30), ("none", 1, 30), ("none", 4, 8)])
def test_it_leaves_time_for_all_images_that_this_rank_scores_after_it(monkeypatch, on, ranks, images):
    left = []
    monkeypatch.setattr(ScoringReserve, "allows", lambda self, *given: left.append(self.images) or 0)
    counts = ("validate", "test")
    config = SimpleNamespace(
        batch_size=4, label_smoothing=0.1, budget=SimpleNamespace(counts=counts), validate=SimpleNamespace(on=on)
    )
    train, holdout, test = noise(57, 3), noise(20, 3), noise(30, 3)
    run = SimpleNamespace(config=config, train=train, holdout=holdout, unseen=holdout, test=test, spec=spec_of(train))
    budget = SimpleNamespace(reserve=ScoringReserve(), counts=counts, seconds=9.0, elapsed=lambda: 0.0, steps=1)
    run.clock = Clock()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, strategy=strategy, world_size=ranks)
    calibrate(run, trainer, torch.nn.Identity(), budget)
    assert left == [images]


def test_its_images_are_held_out_or_the_next_of_the_stream(small_blocks):
    train, holdout = noise(57, 3), noise(20, 3)
    spec = spec_of(train, STANDARD)
    images, labels = calibration_images(spec, train, holdout, 40, 7)
    assert len(labels) == 7
    for image, label in zip(images, labels, strict=True):
        (place,) = np.flatnonzero((holdout.images == image).all((1, 2, 3)))
        assert holdout.labels[place] == label
    by_class = noise(1000, 3)
    by_class = dataclasses.replace(by_class, labels=np.sort(by_class.labels))
    _, labels = calibration_images(spec, train, by_class, 40, 400)
    shares = [np.bincount(part, minlength=3) / len(part) for part in (labels[:100], by_class.labels)]
    assert (abs(shares[0] - shares[1]) < 0.15).all(), "there may be time for the first ones only"
    none = holdout.take(np.arange(0))
    images, labels = calibration_images(spec, train, none, 40, 1000)
    first, second = (plan_epoch(spec.seed, epoch, 57, 9, 11, STANDARD).order for epoch in (0, 1))
    rows = np.concatenate([first[40:], second[:40]])
    np.testing.assert_array_equal(images, train.images[rows])
    np.testing.assert_array_equal(labels, train.labels[rows])
    # As often as they are there, even if training draws each class equally often.
    balanced = dataclasses.replace(train, sampling=BalancedSampling(train.labels))
    images, _ = calibration_images(dataclasses.replace(spec, sampling="balanced"), balanced, none, 40, 1000)
    np.testing.assert_array_equal(images, train.images[rows])
