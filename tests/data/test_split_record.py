"""A run's own images are found again in a folder that has changed, by what they show."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import open_splits
from fastconv.data.own_images import own_images
from fastconv.data.split_record import SplitRecord
from fastconv.system.errors import InputError

SIDE = 12


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def begun(tmp_path):
    """(dataset, data folder, run folder, splits) of a run on 60 images of noise, a quarter of the rest held out."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for at in range(30):
            save(tmp_path / "photos" / name / f"{at}.png", generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    dataset = Dataset(name="own", source="image_folder", root=str(tmp_path / "photos"), holdout=0.25)
    dataset.image_size = SIDE
    splits, run = open_splits(dataset, tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    SplitRecord.of(splits).write(run)
    return dataset, tmp_path / "data", run, splits


def assert_same(found, expected):
    for name in ("train", "holdout", "test"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert (ours.digest, ours.classes) == (theirs.digest, theirs.classes), "the same stream"


def photos(dataset):
    from pathlib import Path

    return Path(dataset.root)


def test_an_unchanged_folder_is_the_same(begun):
    dataset, data, run, splits = begun
    found = own_images(dataset, data, run)
    assert_same(found.splits, splits)
    assert found.changes.sentence() == ""
    assert [len(part.hashes) for part in SplitRecord.read(run).parts] == [36, 12, 12]


@pytest.mark.parametrize("more", [1, 7, 60])
def test_photos_that_come_are_left_out(begun, more):
    dataset, data, run, splits = begun
    generator = np.random.default_rng(1)
    for at in range(more):
        save(photos(dataset) / "cat" / f"new {at}.png", generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    found = own_images(dataset, data, run)
    assert_same(found.splits, splits)
    assert found.changes.sentence().startswith(f"{more} image{'s are' * (more > 1) or ' is'} new since this run")


def test_names_of_files_and_further_classes_do_not_matter(begun):
    dataset, data, run, splits = begun
    for at, path in enumerate(sorted(photos(dataset).rglob("*.png"))):
        path.rename(path.with_name(f"holiday {97 * at % 61}.png"))
    assert_same(own_images(dataset, data, run).splits, splits)
    for at in range(4):
        save(photos(dataset) / "bird" / f"{at}.png", np.full((SIDE, SIDE, 3), 40 * at, np.uint8))
    found = own_images(dataset, data, run)
    assert_same(found.splits, splits)
    assert found.changes.new == 4


def test_accents_of_classes_may_be_taken_apart(begun):
    """As some archives and file systems do when a folder is copied to another machine."""
    dataset, data, run, _ = begun
    photos(dataset).joinpath("cat").rename(photos(dataset) / "caf\u00e9")
    splits = open_splits(dataset, data)
    SplitRecord.of(splits).write(run)
    photos(dataset).joinpath("caf\u00e9").rename(photos(dataset) / "cafe\u0301")
    found = own_images(dataset, data, run)
    assert_same(found.splits, splits)
    assert found.changes.sentence() == ""


def test_photos_that_are_gone_or_of_another_class_are_told(begun):
    dataset, data, run, splits = begun
    shown = {Image.open(path).tobytes(): path for path in photos(dataset).rglob("*.png")}
    path = {part: shown[getattr(splits, part).images[0].tobytes()] for part in ("train", "test")}
    path["train"].unlink()
    other = photos(dataset) / ("dog" if path["test"].parent.name == "cat" else "cat") / "moved.png"
    path["test"].rename(other)
    found = own_images(dataset, data, run)
    assert found.changes.gone == {"training": 1, "held-out": 0, "test": 0}
    assert (found.changes.relabelled, found.changes.new) == (1, 0)
    np.testing.assert_array_equal(found.splits.test.images, splits.test.images)
    assert found.splits.test.labels[0] != splits.test.labels[0], "scored by what the folder says now"
    assert found.splits.train.digest != splits.train.digest
    assert "1 image is gone (1 of the training images); 1 image is of another class now" in found.changes.sentence()


def test_copies_are_counted(begun):
    dataset, data, run, splits = begun
    path = next(photos(dataset).rglob("*.png"))
    shutil.copy(path, path.with_name("copy.png"))
    found = own_images(dataset, data, run)
    assert_same(found.splits, splits)
    assert found.changes.new == 1


def test_larger_photos_do_not_change_the_size_of_a_run(begun):
    """Without dataset.image_size it is the median of the images' own."""
    dataset, data, run, splits = begun
    dataset.image_size = None
    for path in photos(dataset).rglob("*.png"):
        with Image.open(path) as image:
            image.resize((28, 28), Image.Resampling.NEAREST).save(path)
    splits = open_splits(dataset, data)
    SplitRecord.of(splits).write(run)
    assert splits.train.images.shape[1] == 28
    for at in range(70):
        save(photos(dataset) / "dog" / f"large {at}.png", np.full((40, 40, 3), 3 * at, np.uint8))
    assert open_splits(dataset, data).train.images.shape[1] == 40
    assert_same(own_images(dataset, data, run).splits, splits)


@pytest.mark.parametrize("grey", [True, False])
def test_photos_in_colour_among_grey_ones_and_the_reverse(tmp_path, grey):
    generator = np.random.default_rng(0)
    shape = (SIDE, SIDE) if grey else (SIDE, SIDE, 3)
    for at in range(40):
        # A colour set whose images but one are grey in fact becomes grey once that one is gone.
        image = generator.integers(0, 256, (SIDE, SIDE), np.uint8)
        save(tmp_path / "photos" / "ab"[at % 2] / f"{at}.png", image)
    extra = tmp_path / "photos" / "a" / "colour.png"
    if not grey:
        save(extra, generator.integers(0, 256, shape, np.uint8))
    dataset = Dataset(name="own", source="image_folder", root=str(tmp_path / "photos"), image_size=SIDE)
    splits, run = open_splits(dataset, tmp_path / "data"), tmp_path / "run"
    assert splits.train.images.shape[3] == (1 if grey else 3)
    run.mkdir()
    SplitRecord.of(splits).write(run)
    extra.unlink() if not grey else save(extra, generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    found = own_images(dataset, tmp_path / "data", run)
    if grey:
        assert_same(found.splits, splits)
        assert found.changes.new == 1
    else:
        assert sum(found.changes.gone.values()) == 1
        assert len(found.splits.train) + len(found.splits.test) == 40


def test_another_data_set_is_refused(begun):
    dataset, data, run, _ = begun
    generator = np.random.default_rng(5)
    for path in photos(dataset).rglob("*.png"):
        save(path, generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    with pytest.raises(InputError, match="none of 12 test images"):
        own_images(dataset, data, run)
    (photos(dataset) / "cat").rename(photos(dataset) / "cats")
    with pytest.raises(InputError, match=r"has no class cat, which .* did you mean cats\?"):
        own_images(dataset, data, run)


def test_images_of_another_size_are_refused(begun):
    dataset, data, run, _ = begun
    dataset.image_size = 2 * SIDE
    with pytest.raises(InputError, match=r"images of 24x24x3 now, and .* on 12x12x3"):
        own_images(dataset, data, run)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps({**content, "format": 2}),
        lambda content: json.dumps({**content, "train": None}),
        lambda content: json.dumps({**content, "shape": ["x", 1, 1]}),
        lambda content: json.dumps({**content, "shape": [float("inf"), 1, 3]}),
        lambda content: json.dumps({**content, "shape": [float("nan"), 1, 3]}),
        lambda content: json.dumps({**content, "format": "x" * 5000}),
        lambda content: json.dumps({**content, "classes": content["classes"][:1] * len(content["classes"])}),
        lambda content: json.dumps({**content, "test": {**content["test"], "hashes": "@@@"}}),
        lambda content: json.dumps({**content, "test": {**content["test"], "labels": content["train"]["labels"]}}),
        lambda content: json.dumps({**content, "classes": ["cat"]}),
        lambda content: json.dumps({**content, "shape": []}),
        lambda content: "[" * 100_000,
    ],
)
def test_a_damaged_record_is_one_line(begun, damage):
    dataset, data, run, _ = begun
    path = run / "splits.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(InputError) as told:
        own_images(dataset, data, run)
    assert str(path) in str(told.value)
    assert len(str(told.value)) < len(str(path)) + 200
    assert "\n" not in str(told.value)


def test_a_record_without_an_end_is_not_read(begun):
    dataset, data, run, _ = begun
    path = run / "splits.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a named pipe"):
        own_images(dataset, data, run)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="more than 512 MiB"):
        own_images(dataset, data, run)


@pytest.mark.parametrize("shape", [[10**6, 10**6, 3], [SIDE, SIDE, 10**9], [-1, 0, 3]])
def test_a_record_that_claims_huge_images_does_not_fill_the_memory(begun, shape):
    dataset, data, run, _ = begun
    dataset.image_size = None
    path = run / "splits.json"
    content = json.loads(path.read_text())
    content["test"]["digest"] = "changed"
    path.write_text(json.dumps({**content, "shape": shape}))
    with pytest.raises(InputError):
        own_images(dataset, data, run)


def test_a_run_of_an_earlier_version_keeps_the_split_by_position(begun):
    dataset, data, run, splits = begun
    (run / "splits.json").unlink()
    found = own_images(dataset, data, run)
    expected = open_splits(dataset, data, by_content=False)
    assert_same(found.splits, expected)
    assert expected.test.digest != splits.test.digest
