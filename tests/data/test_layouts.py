"""Folders as archives and people lay them out: what is a split, what is a class, and what is passed over."""

import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from fastconv.data.configs import Dataset
from fastconv.data.loading import open_source
from fastconv.data.sources.folders import image_files
from fastconv.data.sources.layout import find_layout
from fastconv.system.errors import InputError

CAFE = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Make folders with some empty files that are images by their names."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            (root / folder / f"{at}.png").touch()
    return root


def split(name: str, *counts: int) -> dict[str, int]:
    return {f"{name}/{label}": count for label, count in zip(("sea", "wood", "hill"), counts, strict=False)}


LAYOUTS = {
    "wrapped splits": (split("seg_train/seg_train", 3, 2) | split("seg_test/seg_test", 1, 1), [[3, 2], [1, 1]], ""),
    "sets": (split("training_set/training_set", 3, 2) | split("test_set/test_set", 1, 1), [[3, 2], [1, 1]], ""),
    "two wrappers": (split("archive/dataset/train", 3, 2) | split("archive/dataset/dev", 1, 1), [[3, 2], [1, 1]], ""),
    "three splits": (split("train", 3, 2) | split("val", 4, 1) | split("test", 1, 1), [[3, 2], [1, 1]], "val has 5"),
    "flat test": (split("train", 3, 2) | {"test": 7}, [[3, 2]], "test has 7 images without folders of classes"),
    "test in test": (split("train", 3, 2) | split("valid", 1, 1) | {"test/test": 7}, [[3, 2], [1, 1]], "test has 7"),
    "class train": ({"bus": 2, "car": 3, "train": 4}, [[2, 3, 4]], "train is read as a class"),
    "class test": ({"bus": 2, "car": 3, "test": 4}, [[2, 3, 4]], "test is read as a class"),
    "extra": (split("train", 3, 2) | split("test", 1, 1) | {"more": 9}, [[3, 2], [1, 1]], "more has 9 images, beside"),
    "words": ({"test_tube": 2, "train_station": 3}, [[2, 3]], ""),
    "alike": (split("north", 1, 1) | split("south", 1, 1), [[2, 2]], "have the same folders (sea and wood)"),
    "two forms": ({f"train/{CAFE[0]}": 3, "train/a": 2, f"test/{CAFE[1]}": 1, "test/a": 1}, [[2, 3], [1, 1]], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_and_classes_are_found(tmp_path, name):
    counts, expected, note = LAYOUTS[name]
    layout = find_layout(fill(tmp_path, counts))
    assert [[len(images) for images in split] for split in layout.images] == expected
    assert not layout.problems
    assert note in "; ".join(layout.notes)
    assert bool(note) or not [line for line in layout.notes if "to train on" not in line]


ASKED = {
    "a split or a class": ({"train/steam": 2, "car": 3, "bus": 2}, "has train beside bus and car"),
    "no train": (split("val", 3, 2) | split("test", 1, 1), "but no train to train on"),
    "no classes": ({"train": 3, "test": 2}, "no folders of classes"),
    "splits of a class": ({"cat_train": 3, "cat_test": 1, "dog_train": 3, "dog_test": 1}, "look like splits"),
    "another data set": (
        split("set/set/train", 2, 2) | split("set/set/valid", 1, 1) | {"test": 3},
        "splits of its own",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_may_mean_two_things_is_asked(tmp_path, name):
    counts, line = ASKED[name]
    with pytest.raises(InputError, match=line):
        find_layout(fill(tmp_path, counts))


def test_all_problems_are_told_at_once(tmp_path):
    layout = find_layout(fill(tmp_path, split("train", 3, 0, 0) | {"train/Cat": 2, "test/cat": 1, "test/owl": 1}))
    told = "; ".join(layout.problems)
    assert "no image of 2 classes (hill and wood)" in told
    assert "no image of 2 classes (cat and owl) to train on" in told
    assert "cat is written Cat there" in told


def test_photographs_that_need_pillow_heif_say_so(tmp_path):
    advice = "Install pillow-heif to read .heic files"
    fill(tmp_path, {"cat": 0, "dog/in": 0})
    for at, place in enumerate(("cat/0.heic", "dog/in/1.HEIC")):
        assert [advice in problem for problem in find_layout(tmp_path).problems] == [at > 0]
        (tmp_path / place).touch()
    (problem,) = find_layout(tmp_path).problems
    assert problem.endswith(f"has no images: its 2 folders of classes have none. {advice}")
    fill(tmp_path, {"cat": 2})
    (problem,) = find_layout(tmp_path).problems
    assert problem == f"there is no image of class dog: add some, or remove the folder. {advice}"
    (tmp_path / "more" / "test" / "cat").mkdir(parents=True)
    (tmp_path / "more" / "test" / "cat" / "0.hif").touch()
    layout = find_layout(fill(tmp_path / "more", split("train", 2, 2)))
    assert any("test has no images: a part" in note and note.endswith(advice) for note in layout.notes)


def test_hidden_and_system_files_are_passed_over_and_counted(tmp_path):
    fill(
        tmp_path, {"cat": 2, "dog": 2, "__MACOSX/cat": 3, "cat/@eaDir": 4, "dog/in/.ipynb_checkpoints": 1, "dog/in": 1}
    )
    fill(tmp_path, {"$RECYCLE.BIN": 5, "System Volume Information": 1, "cat/#recycle": 1, ".git": 1})
    for name in (
        "cat/._0.png",
        "cat/Thumbs.db",
        "dog/desktop.ini",
        "dog/.DS_Store",
        "dog/a.txt",
        "dog/b.HEIC",
        "c.png",
    ):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    layout = find_layout(tmp_path)
    assert [len(images) for images in layout.images[0]] == [3, 3], "a pipe is one that cannot be read"
    assert layout.classes == ["cat", "dog"]
    assert layout.hidden_note().startswith("17 hidden images")
    told = "; ".join(layout.notes)
    assert "left out, beside the folders of classes: 1 image, such as" in told
    assert "2 files have no extension of an image" in told
    assert {path.name for path in image_files(tmp_path)} == {"0.png", "1.png", "c.png", "pipe.png"}
    assert len(list(image_files(tmp_path))) == 7


def test_folders_of_fastconv_are_no_classes(tmp_path):
    fill(tmp_path, {"cat": 2, "dog": 2, "data/arrays": 1, "outputs/set/run": 3})
    assert find_layout(tmp_path, [tmp_path / "data", tmp_path / "outputs"]).classes == ["cat", "dog"]
    assert find_layout(tmp_path).classes == ["cat", "data", "dog", "outputs"]


@pytest.mark.parametrize(("images", "others"), [("images", "labels"), ("JPEGImages", "Annotations")])
def test_a_data_set_of_boxes_is_told_from_one_of_classes(tmp_path, images, others):
    """As YOLO and Pascal VOC lay it out, and labelling tools export."""
    fill(tmp_path, {f"{images}/train": 3, f"{images}/val": 2, others: 0})
    (tmp_path / others / "0.txt").write_text("0 0.5 0.5 0.1 0.1")
    (problem,) = find_layout(tmp_path).problems
    assert "as data sets for the detection of objects do" in problem


def test_classes_that_differ_by_case_or_blanks_are_noted(tmp_path):
    source = open_source(Dataset(name="x", root=str(fill(tmp_path, {"cat": 2, "Cat": 2, "dog": 2, "dog ": 2})),
                                 source="image_folder"), tmp_path / "data")  # fmt: skip
    assert {"the labels Cat and cat are 2 classes", "the labels dog and 'dog ' are 2 classes"} <= set(source.notes)


def test_an_archive_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("a/0.png", b"")
    for kind, says in (("image_folder", "is an archive: unpack it"), ("arrays", "has no arrays: images and labels")):
        with pytest.raises(InputError, match=says):
            open_source(Dataset(name="x", root=str(tmp_path / "photos.zip"), source=kind), tmp_path / "data")


def test_an_empty_table_is_empty(tmp_path):
    (tmp_path / "x.csv").touch()
    with pytest.raises(InputError, match=r"x.csv is empty: give a table"):
        open_source(Dataset(name="x", train=str(tmp_path / "x.csv"), source="csv"), tmp_path / "data")
