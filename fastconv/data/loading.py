"""Opens data sets: every source is decoded once to plain arrays on disk, and memory-mapped from then on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastconv.data.array_files import ArraysWriter, new_arrays, read_arrays
from fastconv.data.dataset import ImageData
from fastconv.data.hashes import with_hashes
from fastconv.data.sources import code
from fastconv.data.sources.base import Arrays, Source, builtin_sets, sources
from fastconv.data.sources.custom import Opened, read, write
from fastconv.data.sources.folders import image_folder
from fastconv.data.splits import Splits, content_split, stratified_split
from fastconv.system.errors import InputError
from fastconv.system.names import check_name

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

Stored = TypeVar("Stored")
# Changes when the same files give other images or classes, so that they are read again. 2: 16 bits and floats by one
# rule for all images of a data set. 3: images with NaN are unreadable. 4: turned photographs with wrong EXIF tags are
# readable; names of a tar that are not UTF-8 stay apart; labels whose accents are composed otherwise are one class.
DECODER = 4


def load(
    dataset: "Dataset | str", root: Path, own: Sequence[Path] = (), by_content: bool = True
) -> tuple[ImageData, ImageData]:
    """Load the training and test split of a data set; built-in sets have their official splits.

    Args:
        dataset: the config of a data set, or the name of a built-in one.
        root: the folder that holds, or will hold, the data sets' files.
        own: folders that fastconv writes to (`Config.own_folders`), which hold no images to train on.
        by_content: draw the test split of a user's images, if they come without one, by their content; else by their
            position, as earlier versions did.

    Raises InputError if files are missing and cannot be downloaded, are damaged, or cannot be decoded to `root`; and
    for a user's data set that is not what its config says.
    """
    check_name("dataset.name", dataset if isinstance(dataset, str) else dataset.name)
    if isinstance(dataset, str) or dataset.is_builtin:
        name = dataset if isinstance(dataset, str) else dataset.name
        folder = root / "arrays" / name
        splits = read_arrays(name, folder) or _stored(name, folder, builtin_sets()[name](root))
        return splits if isinstance(dataset, str) else _of_one_size(dataset, splits)
    if dataset._target_ is not None:
        folder = _folder(dataset, root, code.stamp_of(dataset))
        if there := read_arrays(dataset.name, folder):
            return _of_one_size(dataset, with_hashes(folder, there))
    opened = open_source(dataset, root, own)
    if not isinstance(opened, Source):
        return _of_one_size(dataset, with_hashes(folder, _stored(dataset.name, folder, opened)))
    if opened.problems:
        raise InputError("; ".join(opened.problems))
    folder = _folder_of_source(dataset, root, opened, by_content)
    make = partial(write, dataset, opened, by_content=by_content)
    splits = _open(folder, partial(read_arrays, dataset.name, folder), make)
    return _with_notes(with_hashes(folder, splits), opened.notes)


def open_described(dataset: "Dataset", root: Path, opened: Source) -> Opened:
    """Load a user's own data set with the names of its images, their sizes, and the files that cannot be read.

    Raises InputError as `load` does.
    """
    folder = _folder_of_source(dataset, root, opened)
    return _open(folder, partial(read, dataset.name, folder), partial(write, dataset, opened))


def stored_images(dataset: "Dataset", root: Path, own: Sequence[Path] = (), by_content: bool = True) -> Opened | None:
    """The images of a user's data set, with their names, as far as they were decoded before; else None.

    Takes and raises what `load` does.
    """
    opened = open_source(dataset, root, own)
    if not isinstance(opened, Source):
        return None
    return read(dataset.name, _folder_of_source(dataset, root, opened, by_content))


def _of_one_size(dataset: "Dataset", splits: tuple[ImageData, ImageData]) -> tuple[ImageData, ImageData]:
    """Images that came in one size stay as they are; `dataset.resize` is for others that are classified later."""
    if dataset.resize in ("crop", "auto"):
        return splits
    train, test = (replace(split, resize=dataset.resize) for split in splits)
    return train, test


def _with_notes(splits: tuple[ImageData, ImageData], notes: Sequence[str]) -> tuple[ImageData, ImageData]:
    train, test = (replace(split, note="; ".join(filter(None, (split.note, *notes)))) for split in splits)
    return train, test


def open_source(dataset: "Dataset", root: Path, own: Sequence[Path] = ()) -> Source | Arrays:
    """Open the source of a user's data set. If it is a function that returns arrays, return these.

    Raises InputError for a source that does not match the config.
    """
    if dataset._target_ is not None:
        return code.call(dataset)
    if dataset.source == "image_folder":
        return image_folder(dataset, root, own)
    return sources()[dataset.source](dataset, root)


def open_splits(dataset: "Dataset", root: Path, own: Sequence[Path] = (), by_content: bool = True) -> Splits:
    """Load a data set and hold out a part of its training images. Takes and raises what `load` does."""
    return hold_out(dataset, *load(dataset, root, own, by_content), by_content)


def hold_out(dataset: "Dataset", everything: ImageData, test: ImageData, by_content: bool = True) -> Splits:
    """Hold out a part of the training images, `everything`: of a user's own by their content, else by position."""
    share, seed = dataset.holdout, dataset.holdout_seed
    if everything.hashes is None or not by_content:
        kept, held = stratified_split(everything, share, seed)
    else:
        kept, held = content_split(everything.hashes, everything.labels, share, seed, "holdout")
    if not len(held):
        return Splits(everything, everything.take(held), test)
    return Splits(everything.take(kept), everything.take(held), test)


def _folder(dataset: "Dataset", root: Path, stamp: list[Any]) -> Path:
    return root / "arrays" / f"{dataset.name}-{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:16]}"


def _folder_of_source(dataset: "Dataset", root: Path, opened: Source, by_content: bool = True) -> Path:
    about: list[Any] = [
        opened.stamp,
        dataset.image_size,
        dataset.test_share,
        dataset.split_seed,
        dataset.strict,
        DECODER,
    ]
    about += ["content"] * by_content
    about += [dataset.resize] * (dataset.resize != "crop")  # images that are cropped were read by earlier versions too
    return _folder(dataset, root, [dataset._target_ or dataset.source, *about])


def _open(folder: Path, stored: Callable[[], Stored | None], write: Callable[[ArraysWriter], None]) -> Stored:
    """Open the arrays in a folder; write them first if they are not there."""
    there = stored()
    if there is None:
        with new_arrays(folder) as writer:
            there = stored()  # another process may have written them meanwhile
            if there is None:
                write(writer)
        there = stored() if there is None else there
    if there is None:
        raise InputError(f"cannot read {folder}, which was just written: check the disk")
    return there


def _stored(name: str, folder: Path, arrays: Arrays) -> tuple[ImageData, ImageData]:
    def write(writer: ArraysWriter) -> None:
        train_images, train_labels, test_images, test_labels, classes = arrays
        writer.write("train", train_images, train_labels)
        writer.write("test", test_images, test_labels)
        writer.finish(classes)

    return _open(folder, partial(read_arrays, name, folder), write)
