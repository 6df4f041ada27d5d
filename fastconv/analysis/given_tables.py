"""Data sets as Python code hands them over in columns: tables of pandas or polars, and data sets of Hugging Face."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastconv.data.sources.formats import ENDINGS
from fastconv.data.sources.tables import TEST, TRAIN
from fastconv.data.sources.typed_columns import CLASSES, IMAGE, NEITHER, OTHER, PATH, TypedColumn, choose_columns
from fastconv.system.errors import InputError
from fastconv.system.names import file_name

# Names of unused columns that are kept.
SHOWN = 8
HOW = 'Say fit(..., image_column="NAME")'


@dataclass(frozen=True)
class GivenRow:
    """A row: its image (a path, bytes, an image of Pillow or an array), its label, and the value of its split."""

    image: Any
    label: Any
    split: Any = None


@dataclass(frozen=True)
class GivenTable:
    """A data set in columns: a name for it, its rows, the name of the column of the split, and whose rows they are.

    `unused` are the first names of further columns, which the plan and the audit report.
    """

    name: str
    rows: Iterable[GivenRow]
    split: str | None
    where: str
    unused: tuple[str, ...] = ()


def as_table(given: Any, image: str | None, label: str | None) -> GivenTable | None:
    """A data set in columns; None for anything else.

    Args:
        given: a table of pandas or polars, or a `Dataset` or `DatasetDict` of Hugging Face.
        image: name of the column of images; None to choose it (`choose_columns`).
        label: the same for the labels.

    Raises InputError if it is not clear which columns have the images and the labels, and for splits of a `DatasetDict`
    that are not known.
    """
    if _is_dataset(given):
        return _of_splits({"": given}, image, label)
    if isinstance(given, Mapping) and given and all(map(_is_dataset, given.values())):
        return _of_splits(given, image, label)
    if hasattr(given, "columns") and hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _of_frame(given, image, label)
    return None


def of_lists(images: Any, labels: Any) -> GivenTable | None:
    """The table of a list of paths, encoded images or images of Pillow, and their labels; None for other images.

    Raises InputError for another number of labels.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS" and images.ndim == 1:
        images = images.tolist()
    if not isinstance(images, list | tuple) or not images:
        return None
    if not all(isinstance(image, str | Path | bytes | Image.Image) for image in images):
        return None
    labels = np.asarray(labels, object).tolist() if hasattr(labels, "__array__") else labels
    if not isinstance(labels, list | tuple | range) or len(labels) != len(images):
        count = f"{len(labels):,}" if isinstance(labels, list | tuple | range) else "a single value"
        raise InputError(f"the data set needs as many labels as images: they are {count} and {len(images):,}")
    return GivenTable("images", map(GivenRow, images, labels), None, "the list of images")


def _is_dataset(given: Any) -> bool:
    """Whether it is a `Dataset` of Hugging Face, or works like one."""
    return all(hasattr(given, name) for name in ("features", "column_names", "__len__", "__getitem__"))


def _of_frame(frame: Any, image: str | None, label: str | None) -> GivenTable:
    where = f"the {type(frame).__name__}"
    names = list(frame.columns)
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"{where} has a column {odd[0]!r}, whose name is no text: give its columns names")
    if not len(frame):
        raise InputError(f"{where} has no rows: give an image and a label in each")
    once = [name for name in names if names.count(name) == 1]
    columns = [TypedColumn(name, _kind(frame[name]) if name in once else OTHER) for name in names]
    chosen = choose_columns(columns, where, image, label, HOW)
    cells = [frame[name] for name in (chosen.image, chosen.label, chosen.split) if name is not None]
    rows = [GivenRow(*row) for row in zip(*cells, strict=True)]
    return GivenTable("dataframe", rows, chosen.split, where, chosen.unused[:SHOWN])


def _kind(column: Iterable[Any]) -> str:
    """The kind of a column by its first value that is not missing."""
    first = next((cell for cell in islice(iter(column), 1000) if not is_missing(cell)), None)
    if isinstance(first, Image.Image | bytes | bytearray) or (isinstance(first, np.ndarray) and first.ndim > 1):
        return IMAGE
    if isinstance(first, Mapping):
        return IMAGE if {"bytes", "path"} & set(first) else NEITHER
    if isinstance(first, Path) or (
        isinstance(first, str) and (first.lower().endswith(ENDINGS) or os.path.isfile(first))
    ):
        return PATH
    return OTHER if isinstance(first, str | int | float | np.generic | None) else NEITHER


def is_missing(cell: Any) -> bool:
    """Whether a cell has no value: None, NaN, or that of pandas."""
    return cell is None or (isinstance(cell, float) and cell != cell) or type(cell).__name__ in ("NAType", "NaTType")


def _of_splits(splits: Mapping[str, Any], image: str | None, label: str | None) -> GivenTable:
    """The table of the splits of a `DatasetDict`, or of one data set, whose split has no name."""
    kinds = {name: _split_of(name) for name in splits}
    where = f"the {type(next(iter(splits.values()))).__name__}"
    if len(splits) > 1 and (None in kinds.values() or "train" not in kinds.values() or len(set(kinds.values())) == 1):
        raise InputError(
            f"the data set has the splits {', '.join(map(str, splits))}: give a dict of train and test (or validation),"
            " or one of them"
        )
    parts, chosen = [], None
    for name, part in splits.items():
        where = f"the {type(part).__name__}" + (f" {name}" if name else "")
        found = choose_columns(_columns_of(part), where, image, label, HOW)
        if chosen is not None and (found.image, found.label) != (chosen.image, chosen.label):
            raise InputError(f"{where} has other columns than {next(iter(splits))}: give splits of one data set")
        chosen = found
        parts.append((kinds[name] if len(splits) > 1 else None, part))
    assert chosen is not None
    split = "split" if len(splits) > 1 else chosen.split
    about = getattr(getattr(parts[0][1], "info", None), "dataset_name", None)
    name = file_name(str(about).rpartition("/")[2]) if about else "dataset"

    def rows() -> Iterator[GivenRow]:
        for kind, part in parts:
            yield from _rows_of(part, chosen.image, chosen.label, kind, chosen.split)

    return GivenTable(name, rows(), split, where, chosen.unused[:SHOWN])


def _split_of(name: object) -> str | None:
    """The split, train, test or val, that the name of a part of a `DatasetDict` stands for; None if it is not known."""
    told = str(name).lower()
    return next(
        (kind for kind, known in (("train", TRAIN), ("test", TEST[0]), ("val", TEST[1])) if told in known), None
    )


def _columns_of(dataset: Any) -> list[TypedColumn]:
    """The columns of a data set of Hugging Face by the types that it declares, which its cells need not be read for."""
    kinds = {"Image": IMAGE, "ClassLabel": CLASSES}
    features = dataset.features or {}
    columns = []
    for name in dataset.column_names:
        feature = features.get(name)
        declared = getattr(feature, "_type", None)
        plain = getattr(feature, "dtype", None) in (None, "binary", "large_binary", "string", "large_string")
        kind = kinds.get(declared or "")
        if kind is None and declared == "Value":
            kind = _kind([dataset[0][name]]) if plain and len(dataset) else OTHER
        columns.append(TypedColumn(name, kind or NEITHER))
    return columns


def _rows_of(dataset: Any, image: str, label: str, kind: str | None, split: str | None) -> Iterator[GivenRow]:
    """Yield the rows of a data set, with the images as their files have them: not decoded where that can be had."""
    feature, names = dataset.features.get(image), getattr(dataset.features.get(label), "names", None)
    if hasattr(dataset, "with_format"):  # of torch or numpy, which would convert the images
        dataset = dataset.with_format(None)
    wanted = [image, label] if split is None or kind is not None else [image, label, split]
    if hasattr(dataset, "select_columns"):
        dataset = dataset.select_columns(wanted)
    if getattr(feature, "_type", None) == "Image" and hasattr(dataset, "cast_column"):
        dataset = dataset.cast_column(image, type(feature)(decode=False))
    for row in dataset:
        told = row[label]
        if names is not None and isinstance(told, int | np.integer):
            told = names[told] if 0 <= told < len(names) else None  # -1 stands for no class
        yield GivenRow(row[image], told, kind or (row[split] if split else None))
