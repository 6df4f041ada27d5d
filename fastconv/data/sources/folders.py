"""A user's own images in folders, and in tables of paths."""

import csv
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastconv.data.sources.base import Found, Source, natural, source, stamp
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.formats import ENDINGS
from fastconv.system.errors import InputError
from fastconv.system.files import read_file

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "testing", "val", "valid", "validation")


@source("image_folder")
def image_folder(dataset: "Dataset", data: Path) -> Source:
    """A folder for each class, below `dataset.root` or below its folders `train` and `test` (or `val`)."""
    root = _root(dataset)
    parts = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    train = next((parts[name] for name in TRAIN_FOLDERS if name in parts), None)
    test = next((parts[name] for name in TEST_FOLDERS if name in parts), None)
    splits = [train, test] if train and test else [train or root]
    classes = sorted({path.name for split in splits for path in split.iterdir() if _is_class(path)}, key=natural)
    if len(classes) < 2:
        raise InputError(
            f"dataset.root={root} has no folders of classes: make one for each class, two or more, with its images"
        )
    found = [
        [(label, path) for label, name in enumerate(classes) for path in image_files(split / name)] for split in splits
    ]
    if not found[0]:
        raise InputError(f"dataset.root={root} has no images ({', '.join(ENDINGS)})")

    def find() -> Found:
        samples = [
            [Sample(str(path.relative_to(root)), label, partial(read_file, path)) for label, path in split]
            for split in found
        ]
        return Found.of(classes, samples)

    return Source([classes, [[stamp(path, root) for _, path in split] for split in found]], find)


@source("csv")
def table(dataset: "Dataset", data: Path) -> Source:
    """A csv with a column of paths, below `dataset.root` or the table's own folder, and one of labels."""
    paths = [_existing(dataset.train, "dataset.train")]
    if dataset.test:
        paths.append(_existing(dataset.test, "dataset.test"))
    splits = [_rows(path) for path in paths]
    classes = sorted({label for split in splits for _, label, _ in split}, key=natural)
    if len(classes) < 2:
        raise InputError(f"{paths[0]} has a single label, {classes[0]}: a classifier needs two or more")
    roots = [Path(dataset.root) if dataset.root else path.parent for path in paths]
    for path, root, split in zip(paths, roots, splits, strict=True):
        missing = [f"{name} (line {line})" for name, _, line in split if not (root / name).is_file()]
        if missing:
            raise InputError(
                f"{path} names {len(missing)} files that are not there, such as {missing[0]}: correct it, or set"
                " dataset.root to their folder"
            )

    def find() -> Found:
        samples = [
            [Sample(name, classes.index(label), partial(read_file, root / name)) for name, label, _ in split]
            for root, split in zip(roots, splits, strict=True)
        ]
        return Found.of(classes, samples)

    stamps = [
        [[label, *stamp(root / name, root)] for name, label, _ in split]
        for root, split in zip(roots, splits, strict=True)
    ]
    return Source([classes, stamps], find)


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder. Links are followed, and each folder is visited once, so loops are safe.

    A link to a folder that contains this one is passed over: the images there are not of this folder's class.
    """
    seen = {(above.st_dev, above.st_ino) for above in map(os.stat, folder.resolve().parents)}
    for here, folders, names in os.walk(folder, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(here, name)


def _root(dataset: "Dataset") -> Path:
    if not dataset.root:
        raise InputError("dataset.root is not set: give the folder of the images, dataset.root=path")
    root = Path(dataset.root)
    if not root.is_dir():
        raise InputError(f"dataset.root={root} is no folder: give the one that has the images")
    return root


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__"))


def _existing(path: object, key: str) -> Path:
    if not isinstance(path, str) or not path:
        raise InputError(f"{key} is not set: give a csv with a column of paths and one of labels, {key}=table.csv")
    if not Path(path).is_file():
        raise InputError(f"{key}={path} is no file: give a csv with a column of paths and one of labels")
    return Path(path)


def _rows(path: Path) -> list[tuple[str, str, int]]:
    """The (path, label, line number) of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    head = [name.strip().lower() for name in lines[0]] if lines else []
    at_path = next((head.index(name) for name in ("path", "file", "filename", "image") if name in head), None)
    at_label = next((head.index(name) for name in ("label", "class", "target", "category") if name in head), None)
    begin = 1
    if at_path is None and at_label is None:
        at_path, at_label, begin = 0, 1, 0
    elif at_path is None or at_label is None:
        raise InputError(
            f"{path} has no column {'path' if at_path is None else 'label'}: its first line is {','.join(lines[0])}"
        )
    rows = []
    for number, row in enumerate(lines[begin:], begin + 1):
        if not row:
            continue
        if len(row) <= max(at_path, at_label) or not row[at_path].strip() or not row[at_label].strip():
            raise InputError(
                f"{path}, line {number}: a path and a label are wanted, there is {','.join(row) or 'nothing'}"
            )
        rows.append((row[at_path].strip(), row[at_label].strip(), number))
    if not rows:
        raise InputError(f"{path} has no rows: give a path and a label in each")
    return rows
