"""A user's own images in tables: of paths and labels, or of pixels and labels."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.data.sources.base import Found, Source, source, stamp
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.image_paths import ImagePaths
from fastconv.data.sources.labels import NO_LABEL, class_names, class_notes, combined, label_of, numbered
from fastconv.data.sources.table_columns import MULTI_LABEL, Columns, find_columns, no_column
from fastconv.data.sources.table_file import read_rows
from fastconv.system.errors import InputError
from fastconv.system.files import read_file
from fastconv.system.wording import counted, first_names

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Values of a column that says the split of each row.
TRAIN = ("train", "training", "trn", "tr")
TEST = (("test", "testing", "tst", "privatetest"), ("val", "valid", "validation", "dev", "publictest"))
# Columns of truth values: what a row is where they are true, and where they are not.
TRUTH = {"istest": ("test", "train"), "isvalid": ("val", "train"), "isval": ("val", "train"),
         "istrain": ("train", "test"), "istrainingimage": ("train", "test")}  # fmt: skip
# Names of unused columns that a note shows.
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its image's name, its label or None, its value in the column of the split, and its line.

    `image` is the image's file, or its pixels as uint8 [H, W]; None for a file that is not there.
    """

    name: str
    label: str | None
    split: str
    line: int
    image: Path | np.ndarray | None


@source("csv")
def table(dataset: "Dataset", data: Path) -> Source:
    """A csv with a column of images, paths below `dataset.root` or the table's own folder, and one of labels.

    They are found by their names, or named by `dataset.image_column` and `dataset.label_column`.
    A column of the split, such as `split` or `is_test`, is used unless `dataset.test` names a table of its own.
    """
    paths = [_existing(dataset.train, "dataset.train")]
    if dataset.test:
        paths.append(_existing(dataset.test, "dataset.test"))
    roots = [Path(dataset.root) if dataset.root else path.parent for path in paths]
    splits, notes, tables = [], [], []
    for path, root in zip(paths, roots, strict=True):
        columns, rows, told = _read(path, root, dataset)
        notes += told
        _require_files(path, rows)
        if columns.unused:
            notes.append(f"{path} has columns that are not used: {first_names(columns.unused, SHOWN)}")
        parts, told = _parted(path, columns, rows) if len(paths) == 1 else ([rows], _unparted(path, columns))
        splits += parts
        notes += told
        tables.append((path, columns, rows))
    _require_single_labels(tables)
    unlabelled = [(f"{row.name} (line {row.line})", NO_LABEL) for split in splits for row in split if row.label is None]
    labels = (row.label for split in splits for row in split if row.label is not None)
    names = class_names(labels, paths[0], unlabelled)
    classes, number = numbered(names)
    notes += class_notes(classes)
    places = roots if len(roots) == len(splits) else roots * 2

    def find() -> Found:
        samples = [[_sample(row, number[row.label]) for row in split if row.label is not None] for split in splits]
        return Found.of(classes, samples, unlabelled)

    stamps: list[Any] = [
        [[names.get(row.label or "", ""), *_stamp(row, root)] for row in split]
        for root, split in zip(places, splits, strict=True)
    ]
    return Source([classes, stamps, [os.path.realpath(root) for root in roots]], find, tuple(notes))


def _read(path: Path, root: Path, dataset: "Dataset") -> tuple[Columns, list[Row], list[str]]:
    """Read a table; with sentences about other columns of labels. Raises InputError for one that is not of images and
    labels."""
    found, files, rows = read_rows(path), ImagePaths(root), []
    line, first = next(found, (0, []))
    columns = find_columns(
        path, first, lambda name: os.path.isfile(root / name), dataset.image_column, dataset.label_column
    )
    seen: dict[int, set[tuple[str, str]]] = {at: set() for at in columns.rivals}
    width = max((at + 1 for at, cell in enumerate(first) if cell), default=0)
    if not columns.head:
        rows.append(_row(path, columns, first, line, files))
    for line, cells in found:
        if len(cells) < columns.needed:
            raise InputError(f"{path}, line {line}: expected a path and a label, found {','.join(cells)[:200]}")
        if any(cells[width:]) or (not columns.head and len(cells) < width):
            count = max(at + 1 for at, cell in enumerate(cells) if cell)
            raise InputError(
                f"{path}, line {line}: {counted(count, 'cell')}, where the first line has {width}:"
                f" {','.join(cells)[:200]}. Put quotes around a text that holds the separator"
            )
        rows.append(_row(path, columns, cells, line, files))
        for at, pairs in seen.items():
            pairs.add((cells[columns.label or 0], cells[at] if at < len(cells) else ""))
    if not rows:
        raise InputError(f"{path} has no rows: give a path and a label in each")
    return columns, rows, [_rivalry(path, columns, at) for at, pairs in seen.items() if _differ(pairs)]


def _differ(pairs: set[tuple[str, str]]) -> bool:
    """Whether two columns part the rows otherwise, by their (cell, other cell); no for a column without values."""
    cells, others = map(set, zip(*pairs, strict=True))
    return others != {""} and not len(pairs) == len(cells) == len(others)


def _rivalry(path: Path, columns: Columns, at: int) -> str:
    used, other = columns.head[columns.label or 0], columns.head[at]
    return f"the labels of {path} are in the column {used}; dataset.label_column={other} takes others"


def _row(path: Path, columns: Columns, cells: Sequence[str], line: int, files: ImagePaths) -> Row:
    label = label_of(cells[columns.label]) if columns.label is not None else _one_hot(path, columns, cells, line)
    split = cells[columns.split] if columns.split is not None else ""
    if columns.pixels:
        return Row(f"line {line}", label, split, line, _pixels(path, [cells[at] for at in columns.pixels], line))
    assert columns.image is not None
    name = cells[columns.image]
    if not name:
        raise InputError(f"{path}, line {line}: expected a path and a label, found {','.join(cells)[:200]}")
    if len(values := name.strip("[]").replace(",", " ").split()) >= 64 and values[0].isdecimal():
        return Row(f"line {line}", label, split, line, _pixels(path, values, line))
    return Row(name, label, split, line, files.find(name))


def _one_hot(path: Path, columns: Columns, cells: Sequence[str], line: int) -> str | None:
    """The column of the one 1 of a row; None if all are 0."""
    values = [cells[at].lower().removesuffix(".0") for at in columns.one_hot]
    if not {"0", "1", "false", "true", ""}.issuperset(values):
        raise no_column(path, columns.head)
    ones = [columns.head[at] for at, value in zip(columns.one_hot, values, strict=True) if value in ("1", "true")]
    if len(ones) > 1:
        raise InputError(
            f"{path}, line {line}: the image has several labels, {first_names(ones, SHOWN)}. A classifier needs one"
            " each"
        )
    return ones[0] if ones else None


def _require_single_labels(tables: Sequence[tuple[Path, Columns, list[Row]]]) -> None:
    """Raise InputError for a label that joins several, such as cat|dog: it is not a class of its own."""
    known = {row.label for *_, rows in tables for row in rows if row.label is not None}
    for path, columns, rows in tables:
        joined = combined(known, always=columns.label_name in MULTI_LABEL)
        for row in rows:
            if parts := joined.get(row.label or ""):
                raise InputError(
                    f"{path}, line {row.line}: the image has several labels, {first_names(parts, SHOWN)}. A classifier"
                    " needs one each"
                )


def _pixels(path: Path, values: Sequence[str], line: int) -> np.ndarray:
    """An image, uint8 [side, side], of its levels as text."""
    side = isqrt(len(values))
    if side * side != len(values):
        raise InputError(f"{path}, line {line}: {len(values)} pixels are no square image of one channel")
    try:
        try:
            levels = bytes(map(int, values))
        except ValueError:
            numbers = [float(value) for value in values]
            if any(number % 1 for number in numbers):
                raise
            levels = bytes(map(int, numbers))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}, line {line}: pixels must be whole numbers from 0 to 255") from error
    return np.frombuffer(levels, np.uint8).reshape(side, side)


def _require_files(path: Path, rows: Iterable[Row]) -> None:
    """Raise InputError if a table names files that are not there."""
    missing = [f"{row.name[:200]} (line {row.line})" for row in rows if row.image is None]
    if missing and "://" in missing[0]:
        raise InputError(
            f"{path} names {counted(len(missing), 'URL')}, such as {missing[0]}: download the images first"
        )
    if missing:
        raise InputError(
            f"{path} names {counted(len(missing), 'file that is', 'files that are')} not there, such as {missing[0]}:"
            " correct it, or set dataset.root to their folder"
        )


def _parted(path: Path, columns: Columns, rows: list[Row]) -> tuple[list[list[Row]], list[str]]:
    """Part the rows of a table by its column of the split, if it has one; with notes about rows that are not used.

    A split without any label, as the test images of a competition have none, is not tested with.
    """
    if columns.split is None:
        return [rows], []
    head = columns.head[columns.split]
    truth = TRUTH.get("".join(each for each in head.lower() if each.isalpha()))
    kinds = {row.split: _split_of(row.split, truth) for row in rows}
    if unknown := [split for split, kind in kinds.items() if kind is None]:
        return [rows], [f"the column {head} of {path} is not used: {unknown[0] or 'nothing'} is no split that is known"]
    if {"test", "val"}.isdisjoint(kinds.values()):
        return [rows], []
    if "train" not in kinds.values():
        return [rows], [f"the column {head} of {path} is not used: none of its rows is to train on"]
    labelled = {kinds[row.split] for row in rows if row.label is not None}
    used = ["train", *[kind for kind in ("test", "val") if kind in labelled][:1]]
    parts = [[row for row in rows if kinds[row.split] == kind] for kind in used]
    notes = [f"the column {head} of {path} says which images are tested with"] if len(parts) > 1 else []
    left = Counter(row.split for row in rows if kinds[row.split] not in used)
    for split, count in left.items():
        why = "" if kinds[split] in labelled else ", which have no label"
        notes.append(f"left out: {counted(count, 'row')} of {path} with {head}={split}{why}")
    return parts, notes


def _split_of(value: str, truth: tuple[str, str] | None) -> str | None:
    """The split, train, test or val, that a value of a column means; None if it is not known."""
    value = value.lower()
    if truth:
        return (
            truth[0]
            if value in ("true", "1", "1.0", "yes")
            else truth[1]
            if value in ("false", "0", "0.0", "no")
            else None
        )
    for kind, values in (("train", TRAIN), ("test", TEST[0]), ("val", TEST[1])):
        if value in values:
            return kind
    return None


def _unparted(path: Path, columns: Columns) -> list[str]:
    if columns.split is None:
        return []
    return [f"the column {columns.head[columns.split]} of {path} is not used, since dataset.test is set"]


def _sample(row: Row, label: int) -> Sample:
    assert row.image is not None
    read = partial(read_file, row.image) if isinstance(row.image, Path) else partial(np.asarray, row.image)
    return Sample(row.name, label, read)


def _stamp(row: Row, root: Path) -> list[str | int]:
    if isinstance(row.image, Path):
        return stamp(row.image, root)
    assert row.image is not None
    return [hashlib.sha256(row.image.tobytes()).hexdigest()]


def _existing(path: object, key: str) -> Path:
    if not isinstance(path, str) or not path:
        raise InputError(f"{key} is not set: give a csv with a column of paths and one of labels, {key}=table.csv")
    if not Path(path).is_file():
        raise InputError(f"{key}={path} is no file: give a csv with a column of paths and one of labels")
    return Path(path)
