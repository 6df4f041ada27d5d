"""A user's own images: where they may come from, and how they are read."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastconv.data.dataset import ImageData
from fastconv.data.sources.base import Found, Source, natural
from fastconv.data.sources.decode import Decoded, Sample, choose_size, decode, look
from fastconv.data.sources.folders import image_folder, table
from fastconv.data.sources.torchvision import torchvision
from fastconv.data.sources.webdataset import webdataset
from fastconv.data.splits import stratified_split
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


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
    classes = sorted({label for _, labels in splits for label in labels}, key=natural)
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
