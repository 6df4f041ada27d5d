"""Prediction with a trained network: the same as by hand, whatever form the images have."""

import csv
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from harness import by_hand, run_command
from PIL import Image

import fastconv
from fastconv.data.loading import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_root, airbench_run):
    """A folder with test images as files, the folder of a run, and the test images."""
    folder = tmp_path_factory.mktemp("predict")
    _, test = load("digits", digits_root)
    for at in range(30):
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(test.images[at, :, :, 0]).save(folder / "images" / f"{at:03}.png")
    with tarfile.open(folder / "images.tar", "w") as tar:
        for at in range(30):
            tar.add(folder / "images" / f"{at:03}.png", f"{at:03}.png")
    return folder, airbench_run, test


def test_a_predictor_predicts_as_the_checkpoint_does(trained):
    folder, run, test = trained
    predictor = fastconv.load(run, accelerator="cpu")
    expected = by_hand(run, test.images)
    found = predictor.predict(test.images)
    exact = predictor._device.precision == "fp32"
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5 if exact else 2e-2)
    accuracy = (found.labels == test.labels).mean()
    assert accuracy == pytest.approx(json.loads((run / "results.json").read_text())["accuracy"], abs=2e-3)
    assert accuracy > 0.5, "it has learned"
    files = sorted((folder / "images").iterdir())
    for given in (files, [str(file) for file in files], [Image.open(file) for file in files], list(test.images[:30])):
        np.testing.assert_allclose(predictor.predict(given).probabilities, found.probabilities[:30], atol=1e-5)
    assert [name for ((name, _),) in found.top(1)] == found.names
    assert "10 classes, 8x8x1" in repr(predictor)
    assert repr(found).startswith("Predictions of 359 images: ")


def test_views_are_those_that_the_run_was_tested_with(trained):
    _, run, test = trained
    found = fastconv.load(run, accelerator="cpu").predict(test.images, tta=True)
    accuracy = (found.labels == test.labels).mean()
    assert accuracy == pytest.approx(json.loads((run / "results.json").read_text())["accuracy_tta"], abs=2e-3)


def test_files_folders_and_tars_give_the_same_rows(trained, digits_root):
    folder, run, test = trained
    names = fastconv.load(run, accelerator="cpu").predict(test.images[:30]).names
    for given in ("images", "images.tar", f"[{','.join(f'images/{at:03}.png' for at in range(30))}]"):
        ended = run_command(folder, digits_root, "predict", f"run={run}", f"images={given}", "out=found.csv", "top=2")
        assert ended.code == 0, ended.err
        assert "30 images in found.csv" in ended.out
        rows = list(csv.DictReader((folder / "found.csv").open()))
        assert [row["class_1"] for row in rows] == names
        assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)
    ended = run_command(folder, digits_root, "predict", f"run={run}", "images=images", "out=-")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["classes"][0]["class"] for row in rows] == names


def test_what_cannot_be_read_has_the_reason(trained, digits_root, tmp_path):
    _, run, test = trained
    buffer = io.BytesIO()
    Image.fromarray(test.images[0, :, :, 0]).resize((64, 48)).convert("RGBA").save(buffer, "png")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "b.png").write_bytes(b"no image")
    ended = run_command(tmp_path, digits_root, "predict", f"run={run}", f"images={tmp_path}", "out=found.jsonl")
    assert ended.code == 0, ended.err
    assert "2 images in found.jsonl; 1 could not be read" in ended.out
    first, second = map(json.loads, (tmp_path / "found.jsonl").read_text().splitlines())
    assert "error" not in first
    assert (second["classes"], second["error"]) == ([], "not an image")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "images has no value"),
        (("images=nothing",), "images=nothing is not there"),
        (("images=images", "out=found.txt"), "ends in .csv or .jsonl"),
        (("images=images", "top=0"), "top=0 is not possible"),
        (("images=empty",), "has no images"),
        (("images=broken.tar",), "cannot read broken.tar"),
    ],
)
def test_bad_input_is_one_line(trained, digits_root, overrides, line):
    folder, run, _ = trained
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "broken.tar").write_bytes(b"no tar")
    ended = run_command(folder, digits_root, "predict", f"run={run}", *overrides)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert line in ended.err
    assert not list(folder.glob("*.part"))


def test_a_checkpoint_that_would_run_code_is_refused(trained, digits_root, tmp_path):
    folder, run, _ = trained

    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harmed"), "w")

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    torch.save({"network": Harm()}, copy / "last.ckpt")
    ended = run_command(folder, digits_root, "predict", f"run={copy}", "images=images")
    assert ended.code == 1
    assert "is damaged or not fastconv's" in ended.err
    assert not (tmp_path / "harmed").exists()
