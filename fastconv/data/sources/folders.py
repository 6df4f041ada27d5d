"""A user's own images in folders."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastconv.data.sources.base import Found, Source, source, version_of
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.labels import class_notes
from fastconv.data.sources.layout import find_layout
from fastconv.data.sources.walk import Folder, PassedOver
from fastconv.system.errors import InputError
from fastconv.system.files import read_file

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


@source("image_folder")
def image_folder(dataset: "Dataset", data: Path, own: Sequence[Path] = ()) -> Source:
    """A folder for each class, below `dataset.root` or below its folders `train` and `test` (or `val`).

    Args:
        dataset: the config of the data set.
        data: the folder of the data sets.
        own: folders that fastconv writes to, which are not classes even below `dataset.root`.
    """
    root = _root(dataset)
    layout = find_layout(root, [data, *own])
    # Classes without images to train on are among the problems: only an audit goes on without them.
    kept = [at for at, entries in enumerate(layout.images[0]) if entries]
    start = 0 if root == Path() else len(os.path.join(root, ""))  # where paths below the root begin

    def find() -> Found:
        samples = [
            [Sample(entry.path[start:], label, partial(_content, entry.path))
             for label, at in enumerate(kept) for entry in split[at]]
            for split in layout.images
        ]  # fmt: skip
        return Found.of([layout.classes[at] for at in kept], samples)

    stamps = [[_stamp(entry, start) for entries in split for entry in entries] for split in layout.images]
    return Source(
        [layout.classes, stamps, os.path.realpath(root)],
        find,
        (*layout.notes, *class_notes(layout.classes)),
        tuple(layout.problems),
        layout.hidden_note,
    )


def image_files(folder: Path, skip: frozenset[str] = frozenset(), passed: PassedOver | None = None) -> Iterator[Path]:
    """Yield the image files below a folder, without hidden and system ones. Links are followed, and each folder is
    visited once, so loops are safe.

    Args:
        folder: to walk.
        skip: real paths of folders below it to leave out.
        passed: notes what is left out.
    """
    for each in Folder(folder, skip).walk():
        if passed is not None:
            passed.add(each)
        for entry in each.images:
            yield Path(entry.path)


def _stamp(entry: os.DirEntry[str], start: int) -> list[str | int]:
    """What `stamp` gives of a file, from its folder's listing; `start` is where its path below the root begins."""
    try:
        about = entry.stat()
    except OSError:  # a broken link, which counts as unreadable
        return [entry.path, 0, 0]
    return [entry.path[start:], *version_of(about)]


def _content(path: str) -> bytes:
    return read_file(Path(path))


def _root(dataset: "Dataset") -> Path:
    if not dataset.root:
        raise InputError("dataset.root is not set: give the folder of the images, dataset.root=path")
    root = Path(dataset.root)
    if root.is_file() and zipfile.is_zipfile(root):
        raise InputError(f"dataset.root={root} is an archive: unpack it, and give the folder")
    if not root.is_dir():
        raise InputError(f"dataset.root={root} is no folder: give the one that has the images")
    return root
