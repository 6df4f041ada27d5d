"""Run folders of earlier versions, kept as those versions wrote them: every command that reads runs opens them."""

import json
import shutil

import numpy as np
import pytest
import torch
from harness import QUICK, REPOSITORY, by_hand
from PIL import Image

from fastconv.analysis.checkpoint import load_run
from fastconv.data.loading import load
from fastconv.runs.results import Results

EARLIER = REPOSITORY / "tests" / "earlier_versions"


@pytest.fixture(params=sorted(path.name for path in EARLIER.iterdir()))
def old(request, tmp_path):
    """A copy of the run of a version: 40 steps on digits, 45.96 % right, 39.28 % with test-time augmentation."""
    return shutil.copytree(EARLIER / request.param / "digits", tmp_path / "outputs" / "digits" / "old")


def test_its_settings_and_results_have_the_names_of_today(old):
    config, found = load_run(old).config, Results.read(old)
    assert (config.micro_batch_size, config.data_pruning, config.augment.color_jitter.brightness) == (32, 0.1, 0.05)
    assert (config.tta.neighbors, config.tta.confidence_threshold, config.schedule.max_epochs) == (True, 0.9, 2)
    assert (config.average.kind, config.average.update_interval) == ("ema", 5)
    assert (found.steps, found.stop_reason, found.micro_batch_size) == (40, "epochs", 32)
    assert round(100 * found.accuracy, 2) == 45.96
    assert round(100 * found.accuracy_tta, 2) == 39.28
    assert found.hparams["data_pruning"] == 0.1
    assert found.hparams["augment.color_jitter.brightness"] == 0.05
    assert (config.dataset.resize, load_run(old).resize) == ("crop", "crop")


def test_compare_shows_and_selects_it(old, command):
    ended = command("compare", "by=runs", "format=json", "where=[micro_batch_size:32,data_pruning:0.1]")
    assert ended.code == 0, ended.err
    (row,) = json.loads(ended.out)
    assert round(100 * row["accuracy"], 2) == 45.96
    assert (row["epochs"], row["stop_reason"]) == (pytest.approx(1.978, abs=1e-3), "epochs")
    assert "45.96" in command("compare").out


def test_evaluate_scores_it_as_it_was_scored(old, command):
    for tta, percent in (("false", 45.96), ("true", 39.28)):
        ended = command("evaluate", f"run={old}", f"tta={tta}")
        assert ended.code == 0, ended.err
        accuracy = json.loads((old / "evaluation.json").read_text())["accuracy"]
        assert 100 * accuracy == pytest.approx(percent, abs=0.6), "two of the 359 images may fall to the other side"
    assert (old / "report.html").exists()


def test_predict_and_export_answer_as_its_checkpoint(old, command, tmp_path, digits_root):
    _, test = load("digits", digits_root)
    expected = by_hand(old, test.images)
    ended = command("export", f"run={old}", "format=torch")
    assert ended.code == 0, ended.err
    module = torch.export.load(old / "model.pt2").module()
    np.testing.assert_allclose(module(torch.tensor(test.images)).numpy(), expected, atol=1e-4)
    assert (expected.argmax(1) == test.labels).mean() == pytest.approx(0.4596, abs=0.006)
    Image.fromarray(test.images[0, :, :, 0]).save(tmp_path / "digit.png")
    ended = command("predict", f"run={old}", "images=digit.png", "out=-")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["classes"][0]["class"] == test.classes[expected[0].argmax()]


def test_explain_draws_its_heatmaps(old, command):
    ended = command("explain", f"run={old}", *QUICK, "method=[grad_cam]", "measures=false")
    assert ended.code == 0, ended.err
    assert (old / "explain" / "explain.html").exists()
