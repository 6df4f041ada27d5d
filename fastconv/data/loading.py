"""Opens data sets: every source is decoded once to plain arrays on disk, and memory-mapped from then on."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.sources import code
from fastconv.data.sources.base import Arrays, Source, builtin_sets, sources
from fastconv.data.sources.custom import read
from fastconv.data.splits import Splits, stratified_split
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

ARRAYS_FORMAT = 1


def load(dataset: "Dataset | str", root: Path) -> tuple[ImageData, ImageData]:
    """Load the training and test split of a data set; built-in sets have their official splits.

    Args:
        dataset: the config of a data set, or the name of a built-in one.
        root: the folder that holds, or will hold, the data sets' files.

    Raises InputError if files are missing and cannot be downloaded, are damaged, or cannot be decoded to `root`; and
    for a user's data set that is not what its config says.
    """
    if isinstance(dataset, str) or (dataset._target_ is None and dataset.source == "builtin"):
        name = dataset if isinstance(dataset, str) else dataset.name
        folder = root / "arrays" / name
        return _read_arrays(name, folder) or _stored(name, folder, builtin_sets()[name](root))
    if dataset._target_ is not None:
        folder = _folder(dataset, root, code.stamp_of(dataset))
        if there := _read_arrays(dataset.name, folder):
            return there
    opened = open_source(dataset, root)
    if not isinstance(opened, Source):
        return _stored(dataset.name, folder, opened)
    about = [opened.stamp, dataset.image_size, dataset.test_share, dataset.split_seed, dataset.strict]
    folder = _folder(dataset, root, [dataset._target_ or dataset.source, *about])
    if there := _read_arrays(dataset.name, folder):
        return _with_notes(there, opened.notes)
    found = read(dataset, opened)
    arrays = (found.train.images, found.train.labels, found.test.images, found.test.labels, found.classes)
    return _with_notes(_stored(dataset.name, folder, arrays, found.note), opened.notes)


def _with_notes(splits: tuple[ImageData, ImageData], notes: Sequence[str]) -> tuple[ImageData, ImageData]:
    train, test = (replace(split, note="; ".join(filter(None, (split.note, *notes)))) for split in splits)
    return train, test


def open_source(dataset: "Dataset", root: Path) -> Source | Arrays:
    """Open the source of a user's data set. If it is a function that returns arrays, return these.

    Raises InputError for a source that does not match the config.
    """
    return code.call(dataset) if dataset._target_ is not None else sources()[dataset.source](dataset, root)


def open_splits(dataset: "Dataset", root: Path) -> Splits:
    """Load a data set and hold out a part of its training images. Raises InputError as `load` does."""
    everything, test = load(dataset, root)
    kept, held = stratified_split(everything, dataset.holdout, dataset.holdout_seed)
    if not len(held):
        return Splits(everything, everything.take(held), test)
    return Splits(everything.take(kept), everything.take(held), test)


def _folder(dataset: "Dataset", root: Path, stamp: list[Any]) -> Path:
    return root / "arrays" / f"{dataset.name}-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]}"


def _stored(name: str, folder: Path, arrays: Arrays, note: str = "") -> tuple[ImageData, ImageData]:
    _write_arrays(folder, arrays, note)
    stored = _read_arrays(name, folder)
    if stored is None:
        raise InputError(f"cannot read {folder}, which was just written: check the disk")
    return stored


def _read_arrays(name: str, folder: Path) -> tuple[ImageData, ImageData] | None:
    """Memory-map the decoded arrays; None if they are absent, in another format or truncated."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format"] != ARRAYS_FORMAT:
            return None
        arrays = {
            split: tuple(np.load(folder / f"{split}-{part}.npy", mmap_mode="r") for part in ("images", "labels"))
            for split in ("train", "test")
        }
        classes = tuple(meta["classes"])
        train, test = (
            ImageData(name, images, labels, classes, meta["digest"][split], meta.get("note", ""))
            for split, (images, labels) in arrays.items()
        )
        return train, test
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_arrays(
    folder: Path,
    arrays: Arrays,
    note: str = "",
) -> None:
    """Store decoded arrays in a folder that appears only when it is complete."""
    train_images, train_labels, test_images, test_labels, classes = arrays
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    digests = {}
    try:
        aside.mkdir(parents=True)
        for split, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
            images, labels = np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(labels, np.int64)
            digests[split] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
            np.save(aside / f"{split}-images.npy", images)
            np.save(aside / f"{split}-labels.npy", labels)
        meta = {"format": ARRAYS_FORMAT, "classes": list(classes), "digest": digests, "note": note}
        (aside / "meta.json").write_text(json.dumps(meta, indent=1))
        if _read_arrays("", folder) is None:  # another process may have written the same arrays meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
    except OSError as error:
        # Another process may have written the same arrays first.
        if not os.path.exists(folder / "meta.json"):
            raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
