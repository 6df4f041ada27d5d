"""A user's own images: folders, tables, tar shards, and whatever torchvision has."""

import csv
import glob
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastconv.data.decode import Decoded, Sample, choose_size, decode, look
from fastconv.data.images import ImageData, stratified_split
from fastconv.errors import InputError, nearest

if TYPE_CHECKING:
    from fastconv.config import Dataset

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MOST_CLASSES = 99_999
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "training"), ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class Found:
    """What a source has. Without test samples, the training ones are to be split."""

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample] | None


@dataclass(frozen=True)
class Source:
    """Images somewhere. `stamp` changes with them, and costs little; `find` finds them."""

    stamp: list
    find: Callable[[], Found]


def image_folder(dataset: "Dataset", data: Path) -> Source:
    """A folder for each class, below `dataset.root` or below its folders `train` and `test` (or `val`)."""
    root = _root(dataset)
    parts = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    train = next((parts[name] for name in TRAIN_FOLDERS if name in parts), None)
    test = next((parts[name] for name in TEST_FOLDERS if name in parts), None)
    splits = [train, test] if train and test else [train or root]
    classes = sorted({path.name for split in splits for path in split.iterdir() if _is_class(path)}, key=_natural)
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
        train, *test = [
            [Sample(str(path.relative_to(root)), label, path.read_bytes) for label, path in split] for split in found
        ]
        return Found(tuple(classes), train, *(test or [None]))

    return Source([classes, [[_stamp(path, root) for _, path in split] for split in found]], find)


def table(dataset: "Dataset", data: Path) -> Source:
    """A csv with a column of paths, below `dataset.root` or the table's own folder, and one of labels."""
    paths = [_existing(dataset.train, "dataset.train")]
    if dataset.test:
        paths.append(_existing(dataset.test, "dataset.test"))
    splits = [_rows(path) for path in paths]
    classes = sorted({label for split in splits for _, label, _ in split}, key=_natural)
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
        train, *test = [
            [Sample(name, classes.index(label), (root / name).read_bytes) for name, label, _ in split]
            for root, split in zip(roots, splits, strict=True)
        ]
        return Found(tuple(classes), train, *(test or [None]))

    stamps = [
        [[label, *_stamp(root / name, root)] for name, label, _ in split]
        for root, split in zip(roots, splits, strict=True)
    ]
    return Source([classes, stamps], find)


def webdataset(dataset: "Dataset", data: Path) -> Source:
    """Tar shards of images (jpg, png, webp, ...), each with a label as .cls or in a .json, here or behind URLs."""
    if not dataset.train:
        raise InputError("dataset.train is not set: name the tars to train on, such as dataset.train=train-*.tar")
    keys = ["train", "test"] if dataset.test else ["train"]
    splits = [list(_tars(getattr(dataset, key), f"dataset.{key}")) for key in keys]

    def find() -> Found:
        read = [[sample for url in urls for sample in _members(url)] for urls in splits]
        labels = {label for split in read for _, label, _ in split}
        if len(labels) < 2:
            raise InputError(f"{splits[0][0]} has images of {len(labels)} classes: a classifier needs two or more")
        if all(isinstance(label, int) for label in labels):
            if wrong := [label for label in labels if not 0 <= label <= MOST_CLASSES]:
                raise InputError(f"{splits[0][0]} has the label {wrong[0]}: number the classes from 0 on")
            names = [str(label) for label in range(max(labels) + 1)]
        else:
            names = sorted({str(label) for label in labels}, key=_natural)
        at = {name: label for label, name in enumerate(names)}
        train, *test = [
            [Sample(name, at[str(label)], partial(bytes, content)) for name, label, content in split] for split in read
        ]
        return Found(tuple(names), train, *(test or [None]))

    return Source(
        [[[url, *([] if "://" in url else _stamp(Path(url), Path())[1:])] for url in urls] for urls in splits], find
    )


def torchvision(dataset: "Dataset", data: Path) -> Source:
    """A classification data set of torchvision by its class's name, in its own layout below the data folder."""

    def find() -> Found:
        opened = _open_torchvision(dataset.name, data)
        train, *test = [_indexed(each, dataset.name) for each in opened]
        count = 1 + max(sample.label for samples in (train, *test) for sample in samples)
        classes = getattr(opened[0], "classes", None) or range(count)
        names = tuple(", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in classes)
        return Found(names, train, *(test or [None]))

    return Source([dataset.name], find)


def _open_torchvision(name: str, data: Path) -> list:
    """Its training and test split, or all of one that has no splits."""
    from torchvision import datasets

    known = [each for each in datasets.__all__ if isinstance(getattr(datasets, each), type)]
    if name not in known:
        raise InputError(f"dataset.name={name} is no data set of torchvision{nearest(name, known)}")
    kind = getattr(datasets, name)
    takes, source = inspect.signature(kind).parameters, inspect.getsource(kind)
    splits: list[dict] = [{}]
    if "train" in takes:
        splits = [{"train": True}, {"train": False}]
    elif "split" in takes:
        names = [next((each for each in options if f'"{each}"' in source), None)
                 for options in (("trainval", "train"), ("test", "val", "valid"))]  # fmt: skip
        splits = [{"split": each} for each in names if each]
    more = {"download": True} if "download" in takes else {}
    if name == "EMNIST":
        more["split"] = "balanced"
    try:
        return [kind(data, **each, **more) for each in splits]
    except Exception as error:  # each of them has its own
        line = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"torchvision cannot open {name} in {data}: {line}. Put its files there") from error


def arrays(dataset: "Dataset", data: Path) -> Source:
    """A .npz of `images`, uint8 [N, H, W] or [N, H, W, C], and `labels` [N], numbers or names; `test_images` too."""
    path = Path(dataset.root or "")
    if not dataset.root or not path.is_file():
        raise InputError(f"dataset.root={dataset.root} is no file: give a .npz that has arrays images and labels")
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run anything
            stored = {key: file[key] for key in file.files}
    except Exception as error:  # numpy and zipfile each have their own
        raise InputError(f"cannot read {path}: give a .npz that has arrays images and labels") from error
    splits = []
    for before in ("", "test_") if "test_images" in stored else ("",):
        images, labels = (stored.get(f"{before}{key}") for key in ("images", "labels"))
        if images is None or labels is None or labels.ndim != 1 or len(images) != len(labels):
            raise InputError(f"{path} needs as many {before}labels as {before}images")
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,), (4,)):
            shape = "x".join(map(str, images.shape))
            raise InputError(
                f"{path} has {before}images of {images.dtype}, {shape}: give uint8, N x H x W (x 1, 3 or 4)"
            )
        splits.append((images, [str(label) for label in labels.tolist()]))
    classes = sorted({label for _, labels in splits for label in labels}, key=_natural)
    if len(classes) < 2:
        raise InputError(f"{path} has labels of {len(classes)} classes: a classifier needs two or more")

    def find() -> Found:
        train, *test = [
            [
                Sample(f"{before}image {at}", classes.index(label), partial(_as_image, image))
                for at, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
            for before, (images, labels) in zip(("", "test "), splits, strict=False)
        ]
        return Found(tuple(classes), train, *(test or [None]))

    return Source([classes, hashlib.sha256(path.read_bytes()).hexdigest()], find)


def _as_image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


# The sources, by dataset.source.
OWN: dict[str, Callable[["Dataset", Path], Source]] = {
    "image_folder": image_folder,
    "csv": table,
    "webdataset": webdataset,
    "torchvision": torchvision,
    "arrays": arrays,
}


def _root(dataset: "Dataset") -> Path:
    if not dataset.root:
        raise InputError("dataset.root is not set: give the folder of the images, dataset.root=path")
    root = Path(dataset.root)
    if not root.is_dir():
        raise InputError(f"dataset.root={root} is no folder: give the one that has the images")
    return root


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__"))


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below a folder, links followed, each folder once: links may lead round in a circle."""
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


def _stamp(path: Path, root: Path) -> list:
    try:
        about = path.stat()
    except OSError:  # a link to nowhere: it is among the unreadable
        return [str(path), 0, 0]
    return [os.path.relpath(path, root), about.st_size, about.st_mtime_ns]


def _existing(path: object, key: str) -> Path:
    if not isinstance(path, str) or not path:
        raise InputError(f"{key} is not set: give a csv with a column of paths and one of labels, {key}=table.csv")
    if not Path(path).is_file():
        raise InputError(f"{key}={path} is no file: give a csv with a column of paths and one of labels")
    return Path(path)


def _rows(path: Path) -> list[tuple[str, str, int]]:
    """(path, label, line) of each row."""
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


def _natural(name: str) -> tuple:
    """Numbers in the order of numbers, before words."""
    return (0, int(name), "") if re.fullmatch(r"[0-9]{1,18}", name) else (1, 0, name)


def _tars(given: object, key: str) -> Iterator[str]:
    """Paths and URLs from one or several of them, with {000..010} or * for ranges."""
    from braceexpand import braceexpand

    for text in given if isinstance(given, list) else [given]:
        for name in braceexpand(str(text)):
            if "://" in name:
                yield name
            elif found := sorted(glob.glob(name)):
                yield from found
            else:
                raise InputError(f"{key}: there is no file {name}")


def _members(url: str) -> Iterator[tuple[str, object, bytes]]:
    """(name, label, file) of each image of a tar, nothing of which is written anywhere."""
    for sample in _grouped(url):
        if (image := _image_of(sample)) is not None:
            name = f"{url}: {sample['__key__']}"
            yield name, _label(sample, name), image


def tar_images(url: str) -> Iterator[tuple[str, bytes]]:
    """(name, file) of each image of a tar."""
    for sample in _grouped(url):
        if (image := _image_of(sample)) is not None:
            yield f"{url}: {sample['__key__']}", image


def _image_of(sample: dict) -> bytes | None:
    return next((sample[end[1:]] for end in ENDINGS if end[1:] in sample), None)


def _grouped(url: str) -> Iterator[dict]:
    """The samples of a tar: what belongs to one key, by its ending."""
    import fsspec
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    try:
        with fsspec.open(url, "rb") as file:
            entries = (
                {**entry, "__url__": url} for entry in tar_file_iterator(file, select_files=partial(_inside, url))
            )
            yield from group_by_keys(entries)
    except InputError:
        raise
    except Exception as error:  # every protocol, and tarfile, has its own
        raise InputError(f"cannot read {url}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _inside(url: str, name: str) -> bool:
    if name.startswith("/") or ".." in Path(name).parts:
        raise InputError(f"{url} has an entry that leads out of it, {name}: it was made to do harm, or by mistake")
    return True


def _label(sample: dict, name: str) -> int | str:
    try:
        if "cls" in sample:
            text = sample["cls"].decode().strip()
        else:
            told = json.loads(sample["json"])
            keys = ("label", "cls", "class")
            text = next(told[key] for key in keys if key in told) if isinstance(told, dict) else told
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", str(text)) else str(text)
    except (KeyError, ValueError, StopIteration) as error:
        raise InputError(
            f"{name} has no label: each image needs a .cls, or a .json with a label, of the same name"
        ) from error


def _indexed(split: object, name: str) -> list[Sample]:
    """Samples of an indexed data set, whose labels are read without its images where it has them."""
    labels = next((getattr(split, key) for key in ("targets", "labels", "_labels", "y") if hasattr(split, key)), None)
    if labels is None or len(labels) != len(split):
        labels = [split[at][1] for at in range(len(split))]
    labels = [int(label) for label in np.asarray(labels).tolist()]
    if min(labels) < 0:
        raise InputError(f"torchvision's {name} has images without a label in this split: it cannot be used as it is")
    return [Sample(f"{name} {at}", label, partial(_image, split, at)) for at, label in enumerate(labels)]


def _image(split: object, at: int) -> object:
    return split[at][0]


@dataclass(frozen=True)
class Opened:
    """Everything that was read of a source: its splits, and of all images how they were.

    `sizes` are (width, height) of the readable ones, `unreadable` (name, reason) of the others.
    """

    classes: tuple[str, ...]
    train: Decoded
    test: Decoded
    sizes: list[tuple[int, int]]
    unreadable: list[tuple[str, str]]

    @property
    def note(self) -> str:
        """What there is to say of images that could not be read."""
        if not self.unreadable:
            return ""
        (name, why), count = self.unreadable[0], len(self.sizes) + len(self.unreadable)
        return f"{len(self.unreadable):,} of {count:,} images cannot be read, such as {name} ({why})"


def read(dataset: "Dataset", source: Source) -> Opened:
    """Decode what a source has, with a progress bar, and split it if it comes in one piece.

    Raises InputError for unreadable images if `dataset.strict`, and for a class that has no image to train on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    found = source.find()
    everything = [*found.train, *(found.test or [])]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("looking at images", total=len(everything))
        sizes, grey = look(everything, lambda: progress.advance(task))
        if not sizes:
            raise InputError(f"none of {len(everything):,} images of {dataset.name} can be read")
        size = dataset.image_size or choose_size(sizes)
        task = progress.add_task(f"decoding to {size}x{size}", total=len(everything))
        parts = [found.train] if found.test is None else [found.train, found.test]
        splits = [decode(part, size, grey, lambda: progress.advance(task)) for part in parts]
    unreadable = [each for split in splits for each in split.unreadable]
    sizes = sizes[: len(everything) - len(unreadable)]
    if found.test is None:
        whole = ImageData(dataset.name, splits[0].images, splits[0].labels, found.classes, "")
        splits = [splits[0].take(rows) for rows in stratified_split(whole, dataset.test_share, dataset.split_seed)]
    opened = Opened(found.classes, *splits, sizes, unreadable)
    if dataset.strict and unreadable:
        raise InputError(f"{opened.note}. Mend or remove them, or set dataset.strict=false to go on without them")
    for labels, part in ((opened.train.labels, "train on"), (opened.test.labels, "test with")):
        absent = [name for label, name in enumerate(found.classes) if not (labels == label).any()]
        if absent and (part == "train on" or not len(labels)):
            name = absent[0]
            raise InputError(f"{dataset.name} has no image of class {name} to {part}: add some, or remove the class")
    return opened
