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


def test_more_classes_than_the_network_has_are_all_of_them(trained, digits_root):
    folder, run, _ = trained
    given = (f"run={run}", "images=images/000.png", "out=all.csv", "top=1000")
    ended = run_command(folder, digits_root, "predict", *given)
    assert ended.code == 0, ended.err
    assert "top=1000: the network has 10 classes" in ended.out
    (row,) = csv.DictReader((folder / "all.csv").open())
    assert set(row) == {"image", "error"} | {f"{key}_{at}" for key in ("class", "probability") for at in range(1, 11)}
    assert sum(float(row[f"probability_{at}"]) for at in range(1, 11)) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def shared_folder(trained, tmp_path_factory):
    """A folder of five photos among what systems and fastconv leave there: hidden files, the run, figures, arrays."""
    folder, run, _ = trained
    root = tmp_path_factory.mktemp("shared")
    places = ("a.png", "trip [1]/b.png", "trip [1]/more/c.png", "trip [1]/d.jpg.png", "outputs2/e.png",
              "trip [1]/.f.png", "__MACOSX/trip/._a.png", "@eaDir/a.png/thumb.png", "trip [1]/@eaDir/b.png",
              "outputs/digits/other/curves.png", "data/arrays/x.png")  # fmt: skip
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images" / "000.png", root / place)
    shutil.copytree(run, root / "renamed")
    shutil.copy(folder / "images" / "000.png", root / "renamed" / "samples.png")
    (root / "trip [1]" / "Thumbs.db").touch()
    (root / "trip [1]" / "a.txt").touch()
    return root


PHOTOS = ["a.png", "outputs2/e.png", "trip [1]/b.png", "trip [1]/d.jpg.png", "trip [1]/more/c.png"]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("images=.", PHOTOS),
        ("images=**/*.png", PHOTOS),
        ("images=*", PHOTOS),
        ("images=trip*/*.png", PHOTOS[2:4]),
        ("images=[a.png,trip [1]/more]", [PHOTOS[0], PHOTOS[4]]),
        ("images=outputs2/e.[p]ng", PHOTOS[1:2]),
        ("images=outputs/digits/*/*.png", ["outputs/digits/other/curves.png"]),
    ],
)
def test_what_systems_and_fastconv_leave_is_no_photo(shared_folder, images, expected):
    """Unless the user names it; what is passed over is told."""
    ended = run_command(shared_folder, "data", "predict", "run=renamed", images, "out=found.csv")
    assert ended.code == 0, ended.err
    with (shared_folder / "found.csv").open() as file:
        assert sorted(row["image"] for row in csv.DictReader(file)) == expected
    for folder in ("outputs", "data/arrays", "renamed"):
        assert (f"{folder} is passed over: fastconv writes there" in ended.out) == (expected == PHOTOS)
    if images == "images=.":
        assert "hidden images, or images in folders of the system, are passed over" in ended.out
        assert "1 file has no extension of an image (1 .txt), such as trip [1]/a.txt" in ended.out


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


@pytest.mark.parametrize("out", ["found.csv", "-"])
def test_images_none_of_which_can_be_read_are_an_error(trained, digits_root, tmp_path, out):
    """Each has its reason all the same."""
    _, run, _ = trained
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    ended = run_command(tmp_path, digits_root, "predict", f"run={run}", "images=[a.png,b.png]", f"out={out}")
    assert ended.code == 1
    assert ended.err.endswith("none of 2 images can be read, such as a.png (not an image)\n")
    assert ended.err.count("\n") == 1
    written = ended.out if out == "-" else (tmp_path / out).read_text()
    assert written.count("not an image") == 2
    ended = run_command(tmp_path, digits_root, "predict", f"run={run}", "images=a.png", f"out={out}")
    assert ended.code == 1
    assert ended.err.endswith("fastconv: a.png cannot be read (not an image)\n")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "images has no value"),
        (("images=nothing",), "images=nothing is not there"),
        (("images=images", "out=found.txt"), "ends in .csv or .jsonl"),
        (("images=images", "top=0"), "top=0 is not possible"),
        (("images=empty",), "images=empty has no images"),
        (("images=phone",), "images=phone has no images; 1 file has no extension of an image (1 .xyz), such as phone"),
        (("images=images/*.jpg",), "images=images/*.jpg matches no file"),
        (("images=[images,none/**/*.png]",), "images=none/**/*.png matches no file"),
        (("images=broken.tar",), "cannot read broken.tar"),
    ],
)
def test_bad_input_is_one_line(trained, digits_root, overrides, line):
    folder, run, _ = trained
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "phone").mkdir(exist_ok=True)
    (folder / "phone" / "a.xyz").touch()
    (folder / "found.csv").write_text("of before")
    (folder / "broken.tar").write_bytes(b"no tar")
    ended = run_command(folder, digits_root, "predict", f"run={run}", "out=found.csv", *overrides)
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert line in ended.err
    assert (folder / "found.csv").read_text() == "of before"
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
