"""Progressive resizing: which images are small, and that a run is still within its steps and its budget."""

import json

import numpy as np
import pytest
import torch
from harness import SMALL, only_run, same_weights, stop_at
from PIL import Image

from fastconv.data.loading import load
from fastconv.models.resizing import Resizing
from fastconv.training.module import ImageClassifier

SIDE, EPOCHS, BATCH = 24, 2, 64


@pytest.fixture
def digits(digits_root, tmp_path, monkeypatch):
    """Digits at three times their size, as images of a user's own."""
    monkeypatch.chdir(tmp_path)
    train, test = load("digits", digits_root)
    splits = {}
    for name, split in (("", train.take(np.arange(400))), ("test_", test.take(np.arange(80)))):
        splits |= {f"{name}images": split.images.repeat(3, 1).repeat(3, 2), f"{name}labels": split.labels}
    np.savez(tmp_path / "digits24.npz", **splits)
    return [
        "dataset=arrays", "dataset.root=digits24.npz", f"dataset.image_size={SIDE}", *SMALL, f"batch_size={BATCH}",
        "budget.seconds=null", f"schedule.max_epochs={EPOCHS}", "validate.on=none", "checkpoint.every=null",
        "stream=online", "figures=false",
    ]  # fmt: skip


@pytest.fixture
def sides(monkeypatch):
    """Sides of the images of each microbatch, as the network gets them in training."""
    found, original = [], ImageClassifier._resized

    def resized(self, images):
        smaller = original(self, images)
        found.append(smaller.shape[2])
        return smaller

    monkeypatch.setattr(ImageClassifier, "_resized", resized)
    return found


def test_the_first_images_are_small_and_the_others_whole(command, tmp_path, digits, sides):
    ended = command("train", *digits, "progressive_resizing=0.5")
    assert ended.code == 0, ended.err
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    steps = results["steps"]
    parts = len(sides) // steps
    assert sides == [18] * parts * (steps // 2) + [SIDE] * parts * (steps - steps // 2)
    assert results["hparams"]["progressive_resizing"] == 0.5
    assert results["accuracy"] > 0.2  # scored on whole images
    assert command("train", *digits).code == 0
    whole = [json.loads(path.read_text()) for path in (tmp_path / "outputs").rglob("results.json")]
    assert min(each["petaflop"] for each in whole) == results["petaflop"]
    small = steps // 2
    assert results["petaflop"] == pytest.approx(
        max(each["petaflop"] for each in whole) * (small * 0.5625 + steps - small) / steps
    )


def test_a_resumed_run_goes_on_with_the_size_of_its_step(command, tmp_path, digits, monkeypatch, sides):
    assert command("train", *digits, "progressive_resizing=0.5", "outputs=whole").code == 0
    whole, sides[:] = list(sides), []
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *digits, "progressive_resizing=0.5", "outputs=stopped").code != 0
    (stopped,) = (path.parent for path in (tmp_path / "stopped").rglob("results.json"))
    ended = command("train", f"resume={stopped}")
    assert ended.code == 0, ended.err
    assert sides == whole
    (undisturbed,) = (path.parent for path in (tmp_path / "whole").rglob("results.json"))
    assert same_weights(undisturbed, stopped)


def test_images_are_made_smaller_as_pillow_does():
    """By a mean of the pixels around, so that no detail is left out."""
    module = ImageClassifier("airbench", {"widths": [8, 8, 8]}, (32, 32, 3), tuple("ab"), (0.0,) * 3, (1.0,) * 3)
    images = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    assert module._resized(images) is images
    module.side_share = 0.75
    smaller = module._resized(images)
    assert smaller.is_contiguous(memory_format=torch.channels_last)
    channels = images.contiguous().view(12, 32, 32).numpy()
    expected = [np.asarray(Image.fromarray(each).resize((24, 24), Image.Resampling.BILINEAR)) for each in channels]
    np.testing.assert_allclose(smaller.reshape(12, 24, 24), np.stack(expected), atol=1e-5)


def test_too_small_images_are_one_line(command):
    ended = command("train", "dataset=digits", "progressive_resizing=0.3")
    assert ended.code == 1
    assert "progressive_resizing=0.3 is for images of at least 24x24 pixels: these have 8x8" in ended.err


def test_more_images_fit_into_the_time():
    assert Resizing(0.0).gain == 1
    assert Resizing(0.36).gain == pytest.approx(0.36 / 0.5625 + 0.64)
    assert [Resizing(0.36).side_share(progress) for progress in (0.01, 0.36, 0.37, 1.0)] == [0.75, 0.75, 1.0, 1.0]
