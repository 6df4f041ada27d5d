"""The audit finds what was planted in a folder of real images."""

import csv
import io
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from fastconv.analysis import figures, run_figures
from fastconv.analysis.dataset_audit import draw
from fastconv.data.augment.policy import Policy


def plant(root) -> tuple[set[str], set[str]]:
    """A folder of 3,000 real images of many sizes and modes, with 12 broken files and 5 copies across the split.

    Returns the names of the broken files and of the test images that are among the training images.
    """
    generator = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    digits = load_digits()
    modes = ("RGB", "L", "RGBA", "P", "CMYK", "I;16")
    kinds = {"RGB": "jpg", "CMYK": "jpg", "L": "webp", "RGBA": "png", "P": "gif", "I;16": "png"}
    for at in range(3000):
        split = "test" if generator.random() < 1 / 6 else "train"
        size = (int(generator.integers(30, 90)), int(generator.integers(30, 90)))
        if at % 3 == 2:
            row = at % 1797
            label, image = (
                f"digit {digits.target[row] % 2}",
                Image.fromarray((digits.images[row] * 15).astype(np.uint8)),
            )
            image = image.resize(size, Image.Resampling.BICUBIC)
        else:
            label, photograph = ("china", "flower")[at % 3], photographs[at % 3]
            left, top = (int(generator.integers(0, side - 100)) for side in photograph.size)
            image = photograph.crop((left, top, left + size[0], top + size[1]))
        mode = modes[at // 6 % len(modes)]
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
        else:
            image = image.convert(mode)
        path = root / split / label / f"{at:04}.{kinds[mode]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    broken = set()
    whole = min((root / "train" / "china").glob("*.jpg")).read_bytes()
    for at in range(12):
        path = root / ("train", "test")[at % 2] / "flower" / f"broken {at}.png"
        path.write_bytes((b"", b"no image", whole[:200], bytes(1000))[at % 4])
        broken.add(str(path.relative_to(root)))
    copies = set()
    for at, path in enumerate(sorted((root / "train" / "china").glob("*.jpg"))[:5]):
        copy = root / "test" / "china" / f"copy {at}.jpg"
        shutil.copy(path, copy)
        copies.add(str(copy.relative_to(root)))
    return broken, copies


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return root, *plant(root)


def test_everything_planted_is_found(planted, command, tmp_path):
    root, broken, copies = planted
    ended = command("audit", "dataset=image_folder", f"dataset.root={root}", "dataset.name=photos")
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "outputs" / "photos").iterdir()
    rows = list(csv.DictReader((folder / "findings.csv").open()))
    assert {row["image"] for row in rows if row["finding"] == "unreadable"} == broken
    assert {row["image"] for row in rows if row["finding"] == "leak"} == copies
    assert "leak: 5 test images are among the training images" in ended.out
    assert "unreadable: 12 of 3,017 images cannot be read" in ended.out
    counts = {
        row["class"]: (int(row["train"]), int(row["test"])) for row in csv.DictReader((folder / "classes.csv").open())
    }
    assert sum(train + test for train, test in counts.values()) == 3005
    for name in ("images.png", "augmented.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200


def test_the_pictures_of_a_class_stand_for_all_of_its_images(monkeypatch, tmp_path):
    """And not for the darkest, which come first: images of one's own are in the order of their pixels."""
    shown = []
    monkeypatch.setattr(figures, "draw_tiles", lambda tiles, *given, **more: shown.append(tiles))
    monkeypatch.setattr(run_figures, "draw_augmented", lambda *given: None)
    levels = np.arange(104)
    train = SimpleNamespace(images=np.broadcast_to(levels[:, None, None, None], (104, 8, 8, 1)).astype(np.uint8),
                            labels=np.array([0] * 100 + [1] * 4))  # fmt: skip
    opened = SimpleNamespace(train=train, classes=("a", "b"), examples=[], resize="crop")
    config = SimpleNamespace(augment=Policy(), stream=SimpleNamespace(seed=0))
    draw(SimpleNamespace(name="own", opened=opened), config, tmp_path)
    found = [[int(tile.image.flat[0]) for tile in row] for row in shown[0]]
    assert found == [list(range(0, 100, 10)), [100, 101, 102, 103]]


def test_training_goes_on_without_the_broken_or_stops(planted, command):
    root, broken, _ = planted
    given = ("dataset=image_folder", f"dataset.root={root}", "dataset.name=photos", "dataset.image_size=24",
             "model=airbench", "model.widths=[4,8,8]", "batch_size=250", "micro_batch_size=250", "budget.seconds=null",
             "schedule.max_epochs=1")  # fmt: skip
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    assert f"{len(broken)} of 3,017 images cannot be read" in ended.out.replace("\n", " ")
    ended = command("train", *given, "dataset.strict=true")
    assert ended.code == 1
    assert ended.err.count("\n") == 1


def test_copies_and_contradictions_are_told(command, tmp_path):
    digits = load_digits()
    for at in range(60):
        folder = tmp_path / "f" / str(digits.target[at] % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[at] * 15).astype(np.uint8)).save(folder / f"{at}.png")
    shutil.copy(tmp_path / "f" / "0" / "0.png", tmp_path / "f" / "1" / "other.png")
    ended = command("audit", "dataset=image_folder", "dataset.root=f", "dataset.test_share=0.3")
    assert "contradictory: 1 image has several labels" in ended.out
    assert "few images: 3 classes" in ended.out
    assert re.search(r"note: batch_size=512 is not possible: .* Give batch_size=\d\d or fewer", ended.out)
    os.remove(tmp_path / "f" / "1" / "other.png")
    buffer = io.BytesIO()
    Image.open(tmp_path / "f" / "0" / "0.png").save(buffer, "bmp")
    (tmp_path / "f" / "0" / "same.bmp").write_bytes(buffer.getvalue())
    ended = command("audit", "dataset=image_folder", "dataset.root=f", "dataset.test_share=0.3")
    assert "copies: 1 image is" in ended.out
    assert "leak" not in ended.out, "copies stay together"


def test_a_built_in_set_is_looked_at_too(command):
    ended = command("audit", "dataset=digits")
    assert ended.code == 0, ended.err
    assert "digits: 1,438 images to train on and 359 to test with, 10 classes, as 8x8x1" in ended.out
    ended = command("audit", "dataset.name=digit")
    assert ended.code == 1
    assert "did you mean digits?" in ended.err


def test_images_that_lose_much_to_the_crop_are_counted(command, tmp_path, monkeypatch):
    """3:1 and upright 2:3 images lose two thirds and a third of their length, 4:5 ones a fifth."""
    captions = {}
    draw_tiles = figures.draw_tiles

    def spy(rows, title, path, **settings):
        captions[path.name] = {tile.text for row in rows for tile in row}
        draw_tiles(rows, title, path, **settings)

    monkeypatch.setattr("fastconv.analysis.figures.draw_tiles", spy)
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for at, (height, width) in enumerate(((30, 90), (60, 40), (40, 50), (40, 40))):
                pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{at}.png")
    told = {
        "auto": "note: dataset.resize=auto chose pad: 4 of 8 training images would lose more than a quarter to a crop",
        "crop": "cropped: 8 images lose more than a quarter to the square in the middle that networks see. Show them"
        " whole with dataset.resize=pad",
        "pad": "padded: 8 images have more than a quarter of padding added",
        "squash": "squashed: 8 images lose more than a quarter of the longer side's resolution",
    }
    for resize, line in told.items():
        more = [] if resize == "auto" else [f"dataset.resize={resize}"]
        ended = command("audit", "dataset=image_folder", "dataset.root=photos", *more)
        assert ended.code == 0, ended.err
        assert line in ended.out
        assert ("padded: 8 images" in ended.out) == (resize in ("auto", "pad")), "auto counts for what it chose"
        folder = max((tmp_path / "outputs" / "photos").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        with Image.open(folder / "resized.png") as picture:
            assert min(picture.size) > 200
    assert captions["resized.png"] == {"a\n0.png", "b\n0.png", "a\n1.png", "b\n1.png", "squash"}, "of both classes"
