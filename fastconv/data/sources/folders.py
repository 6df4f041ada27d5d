"""A user's own images in folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastconv.data.sources.base import ENDINGS, Found, Source, natural, source, stamp
from fastconv.data.sources.decode import Sample
from fastconv.system.errors import InputError

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
            [Sample(str(path.relative_to(root)), label, path.read_bytes) for label, path in split] for split in found
        ]
        return Found.of(classes, samples)

    return Source([classes, [[stamp(path, root) for _, path in split] for split in found]], find)


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder. Links are followed, and each folder is visited once, so loops are safe."""
    seen = set()
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
