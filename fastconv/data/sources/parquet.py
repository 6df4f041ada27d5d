"""A user's own images in parquet files, as Hugging Face's `datasets` writes them.

pyarrow reads the files once, row by row; the images' bytes go into one temporary file. Memory is bounded by the largest
row group of a file, not by its pages: pyarrow takes up to twice a page, and a page may be a whole row group.

Limits are checked by a file's metadata before anything is unpacked, and by what was unpacked after each row. pyarrow
believes what a page says of itself: a file with wrong metadata may take twice a page of 2 GiB before it is refused.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv.data.sources.base import Found, Source, source, stamp
from fastconv.data.sources.labels import NO_LABEL, class_names, class_notes, label_of, numbered
from fastconv.data.sources.patterns import matching
from fastconv.data.sources.spool import Spool, SpooledSamples
from fastconv.data.sources.typed_columns import CLASSES, IMAGE, NEITHER, OTHER, TypedColumn, choose_columns
from fastconv.data.sources.unpacking import FREE_BYTES, IMAGE_BYTES, MOST_RATIO
from fastconv.system.errors import InputError, message_of, reason
from fastconv.system.json_text import from_json

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Part of the stamp: to be counted up when other cells are read than before.
READING = 1
# Bytes that are read of a file at a time.
BUFFER_BYTES = 2**20
# Rows that are unpacked at a time. A batch has an image of a dictionary once for each row that it is in: only one of a
# single row is bounded whatever the file says. It costs 12 us of CPU a row, and one of 8 rows 2 us.
BATCH_ROWS = 1
# Unpacked bytes of a row group, in the columns that are read: as many as a page can have. `datasets` writes 100 MB into
# one (earlier versions 100 or 1,000 images), and pandas up to 1,048,576 images.
MOST_GROUP_BYTES = 2**31
NO_IMAGE = "no image in its row"
ONLY_PATH = "the path of an image alone, which is not followed: write the file with the images in it"


@dataclass(frozen=True)
class _File:
    """A parquet file: its columns, and the names of the classes of those that have any."""

    path: Path
    columns: tuple[TypedColumn, ...]
    classes: dict[str, list[str]]


@source("parquet")
def parquet(dataset: "Dataset", data: Path) -> Source:
    """Parquet files with a column of images (bytes, or Hugging Face's `Image`) and one of labels.

    The columns are found by `choose_columns`, or named by `dataset.image_column` and `dataset.label_column`. Labels of
    Hugging Face's `ClassLabel` have the names of their classes.
    """
    if not dataset.train:
        raise InputError("dataset.train is not set: name the parquet files to train on, dataset.train=train-*.parquet")
    keys = ["train", "test"] if dataset.test else ["train"]
    splits = [[_opened(path, key) for path in _paths(getattr(dataset, key), f"dataset.{key}")] for key in keys]
    files = [file for split in splits for file in split]
    how = "Name it with dataset.image_column=NAME"
    chosen = [
        choose_columns(file.columns, str(file.path), dataset.image_column, dataset.label_column, how) for file in files
    ]
    if len({(each.image, each.label) for each in chosen}) > 1:
        other = next(at for at, each in enumerate(chosen) if each != chosen[0])
        raise InputError(f"{files[other].path} has other columns than {files[0].path}: give files of one data set")
    image, label = chosen[0].image, chosen[0].label
    if without := next((each for each in files if TypedColumn(image, IMAGE) not in each.columns), None):
        raise InputError(
            f"{without.path}: the column {image} has no images but other values: give their bytes, or list files in a"
            " table (dataset=csv)"
        )
    notes = []
    if chosen[0].unused:
        notes.append(f"{files[0].path} has columns that are not used: {', '.join(chosen[0].unused[:8])}")
    if chosen[0].split is not None:
        notes.append(
            f"the column {chosen[0].split} of {files[0].path} is not used: give dataset.train and dataset.test"
        )

    def find() -> Found:
        unreadable: list[tuple[str, str]] = []
        number: dict[str, int] = {}
        spool = Spool(data / "arrays")
        read = [
            SpooledSamples(spool, (row for file in split for row in _rows(file, image, label, unreadable)), number)
            for split in splits
        ]
        if unreadable and not any(map(len, read)):
            name, why = unreadable[0]
            raise InputError(f"{name} has {why}, and so has every row")
        names = class_names({label for split in read for label in split.labels}, files[0].path, unreadable)
        classes, numbers = numbered(names)
        number.update(numbers)
        return Found.of(classes, read, unreadable, class_notes(classes))

    stamps = [[[os.path.realpath(file.path), *stamp(file.path, Path())[1:]] for file in split] for split in splits]
    return Source([READING, image, label, *stamps], find, tuple(notes))


def _paths(given: object, key: str) -> Iterator[Path]:
    """Yield the files that one or several paths or patterns name."""
    for text in map(str, given if isinstance(given, list) else [given]):
        if "://" in text:
            raise InputError(f"{key} is a URL, and parquet files are read from disk alone: download them first")
        for name in matching(text, key):
            if not os.path.isfile(name):
                raise InputError(f"{key}={name} is no file: give parquet files, such as {key}={name}/train-*.parquet")
            yield Path(name)


def _opened(path: Path, key: str) -> _File:
    """Read what a file says of its columns. Raises InputError for another file, and without pyarrow."""
    schema = _parquet_file(path, f"dataset.{key}").schema_arrow
    features = _features(schema.metadata or {})
    columns, classes = [], {}
    for field in schema:
        kind, told = _kind(field.type), features.get(field.name, {})
        if kind == OTHER and told.get("_type") == "ClassLabel" and isinstance(told.get("names"), list):
            kind, classes[field.name] = CLASSES, [str(name) for name in told["names"]]
        columns.append(TypedColumn(field.name, kind))
    return _File(path, tuple(columns), classes)


def _parquet_file(path: Path, key: str) -> Any:
    try:
        from pyarrow import parquet as reader
    except ImportError as error:
        raise InputError(
            f"{key}={path} needs the package pyarrow ({reason(error)}): pip install 'fastconv[parquet]'"
        ) from error
    try:
        # A page at a time: by default, all columns of all row groups would be in memory until the file is closed.
        return reader.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except Exception as error:  # Arrow's own, and those of the system
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {path}, which must be a parquet file: {message_of(error, 200)}")


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """The description of the columns by Hugging Face's `datasets`; empty for other files."""
    try:
        features = from_json(metadata[b"huggingface"].decode())["info"]["features"]
        return {name: told for name, told in features.items() if isinstance(told, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _kind(arrow: Any) -> str:
    """The kind of a column of an Arrow type. Paths are not followed: somebody else's file must not name files here."""
    from pyarrow import types

    if types.is_struct(arrow):
        names = [arrow.field(at).name for at in range(arrow.num_fields)]
        return IMAGE if "bytes" in names and _is_bytes(arrow.field("bytes").type) else NEITHER
    if _is_bytes(arrow):
        return IMAGE
    return NEITHER if types.is_nested(arrow) else OTHER


def _is_bytes(arrow: Any) -> bool:
    """Whether an Arrow type is one of bytes."""
    from pyarrow import types

    return bool(types.is_binary(arrow) or types.is_large_binary(arrow))


def _rows(file: _File, image: str, label: str, unreadable: list[tuple[str, str]]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, label, content) of each row that has an image and a label; the others go to `unreadable`."""
    opened, names, at = _parquet_file(file.path, "dataset.train"), file.classes.get(label), 0
    try:
        size, unpacked, columns = file.path.stat().st_size, 0, [image, label]
        _require_readable(file.path, size, opened.metadata, columns)
        for batch in opened.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            unpacked += max(batch.nbytes, batch.num_rows * IMAGE_BYTES)
            _require_plausible(file.path, size, unpacked)
            pair = (batch.column(batch.schema.get_field_index(name)).to_pylist() for name in columns)
            for cell, value in zip(*pair, strict=True):
                name, told = f"{file.path}: row {at}", _label(value, names, file.path, at)
                content = cell.get("bytes") if isinstance(cell, dict) else cell
                at += 1
                if told is None:
                    unreadable.append((name, NO_LABEL))
                elif not content:
                    only_path = isinstance(cell, dict) and cell.get("path")
                    unreadable.append((name, ONLY_PATH if only_path else NO_IMAGE))
                else:
                    yield name, told, content
    except InputError:
        raise
    except Exception as error:  # Arrow's own
        raise _damaged(file.path, error) from error


def _require_readable(path: Path, size: int, metadata: Any, names: Sequence[str]) -> None:
    """Raise InputError if a row group of a file says that it is too large, or all of them that they fill the memory.

    Args:
        path: the file.
        size: its bytes.
        metadata: its `pyarrow.parquet.FileMetaData`.
        names: the columns; a column with others in it counts with all of them.
    """
    unpacked = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        in_group = sum(
            column.total_uncompressed_size
            for column in columns
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names)
        )
        if in_group > MOST_GROUP_BYTES:
            raise InputError(
                f"{path} has a row group of {in_group:,} bytes in the columns {' and '.join(names)}, and at most"
                f" {MOST_GROUP_BYTES:,} are read: write it with smaller row groups, such as row_group_size=100 of"
                " pyarrow.parquet.write_table or of pandas' to_parquet"
            )
        unpacked += in_group
    _require_plausible(path, size, max(unpacked, metadata.num_rows * IMAGE_BYTES))


def _require_plausible(path: Path, size: int, unpacked: int) -> None:
    """Raise InputError if a file of `size` bytes unpacks to more than images do."""
    if unpacked > FREE_BYTES + MOST_RATIO * size:
        raise InputError(
            f"{path} has {size:,} bytes, and unpacks to {unpacked:,} or more, which would fill the memory: if it is"
            " yours, write it with the images as JPEG or PNG"
        )


def _label(value: Any, names: Sequence[str] | None, path: Path, at: int) -> str | None:
    """The label of a row as text; None if it has none. Hugging Face writes -1 for no class."""
    if names is not None and isinstance(value, int):
        if value >= len(names):
            raise InputError(f"{path}, row {at}: the label {value} is none of its {len(names)} classes")
        return names[value] if value >= 0 else None
    if not isinstance(value, str | int | float | bytes | None):
        raise InputError(f"{path}, row {at}: the label is {type(value).__name__}: give a number or a name")
    return (
        None
        if value is None
        else label_of(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
    )
