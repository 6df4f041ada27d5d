"""A user's own images: found by a source, decoded, split and written to arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastconv.data.array_files import ArraysWriter, read_arrays, writing
from fastconv.data.dataset import ImageData, evenly_spread
from fastconv.data.hashes import content_hashes, with_hashes
from fastconv.data.sources.aspect_ratios import choose_resize, describe_choice, lose_much
from fastconv.data.sources.base import Source
from fastconv.data.sources.decode import Decoded, choose_size, decode, look, whole_images, why_unreadable
from fastconv.data.sources.labels import NO_LABEL, require_names
from fastconv.data.sources.levels import describe, levels_of
from fastconv.data.sources.ordering import canonical_order
from fastconv.data.splits import content_split, stratified_split
from fastconv.system.errors import InputError
from fastconv.system.json_text import as_json, from_json
from fastconv.system.wording import agreeing, counted

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# The files, beside the arrays, of the images' names and sizes and of what could not be read; and of whole images, at
# most EXAMPLES of EXAMPLE_SIDE pixels, of those that lose much to a crop.
ABOUT, WHOLE = "images.json", "whole.npy"
EXAMPLES, EXAMPLE_SIDE = 12, 192
# Decoded images, their hashes uint64 [N], and the rows of them that a split has, in its order.
Split = tuple[Decoded, NDArray[np.uint64], NDArray[np.int64]]


@dataclass(frozen=True)
class Opened:
    """The images that were read from a source: its splits, and notes about all of its files.

    `sizes` are (width, height) of the readable images, int64 [N, 2]; `unreadable` are (name, reason) of the others;
    `notes` are sentences about what is passed over, and how the images were decoded; `resize` is how they became
    square; `examples` are (name, whole image, image as networks see it) of some that lose much to a crop.
    """

    classes: tuple[str, ...]
    train: Decoded
    test: Decoded
    sizes: NDArray[np.int64]
    unreadable: list[tuple[str, str]]
    notes: Sequence[str] = ()
    resize: str = "crop"
    examples: Sequence[tuple[str, np.ndarray, np.ndarray]] = ()

    @property
    def note(self) -> str:
        """A sentence about the images that could not be read or have no label; empty if there are none."""
        return note_of(self.unreadable, len(self.sizes) + len(self.unreadable))


def note_of(unreadable: Sequence[tuple[str, str]], count: int) -> str:
    """A sentence about the images, of `count`, that could not be read or have no label; empty if there are none."""
    unlabelled = [name for name, why in unreadable if why == NO_LABEL]
    others = [(name, why) for name, why in unreadable if why != NO_LABEL]
    images, have = counted(count, "image"), agreeing(len(unlabelled), "has", "have")
    lines = [f"{len(others):,} of {images} cannot be read, such as {name} ({why})" for name, why in others[:1]]
    lines += [f"{len(unlabelled):,} of {images} {have} no label, such as {name}" for name in unlabelled[:1]]
    return " and ".join(lines)


def write(dataset: "Dataset", source: Source, writer: ArraysWriter, by_content: bool = True) -> None:
    """Decode the images of a source, with a progress bar, split them if they come without a test split, and write them.

    The order of a split depends only on labels and pixels: the same images give the same arrays from every source. The
    names of the images and what else an audit tells of them are written beside the arrays.

    Args:
        by_content: draw the split by the images' content; else by their position, as earlier versions did.

    Raises InputError for unreadable images if `dataset.strict`, and for a class that has no image to train on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    found = source.find()
    require_names(dataset.name, found.classes)
    parts = [found.train] if found.test is None else [found.train, found.test]
    count = sum(map(len, parts))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("looking at images", total=count)
        looked = [look(part, lambda more: progress.advance(task, more)) for part in parts]
        sizes, grey = np.concatenate([each.sizes for each in looked]), all(each.grey for each in looked)
        ranges, several = ([each for part in looked for each in getattr(part, key)] for key in ("ranges", "several"))
        levels = levels_of(ranges)
        if not count:
            raise InputError(f"{dataset.name} has no images: there is nothing to learn")
        if not len(sizes):
            first = next(sample for part in parts for sample in part)
            raise InputError(
                f"none of {counted(count, 'image')} of {dataset.name} can be read, such as {first.name}"
                f" ({why_unreadable(first)})"
            )
        size = dataset.image_size or choose_size(sizes)
        training = looked[0]
        resize = choose_resize(training.sizes) if dataset.resize == "auto" else dataset.resize
        task = progress.add_task(f"decoding to {size}x{size}", total=count)
        with writing(writer.folder):
            decoded = [
                decode(
                    part,
                    size,
                    grey,
                    lambda more: progress.advance(task, more),
                    writer.aside / f"decoded-{number}",
                    levels,
                    resize,
                )
                for number, part in enumerate(parts)
            ]
        losing = training.places[lose_much(training.sizes)]  # in the order of the source, often class after class
        shown = [found.train[at] for at in losing[evenly_spread(len(losing), EXAMPLES)].tolist()]
        examples, whole = whole_images(shown, EXAMPLE_SIDE, grey, levels)
    unreadable = [each for split in decoded for each in split.unreadable]
    sizes = sizes[: count - len(unreadable)]
    unreadable += found.unreadable
    note = note_of(unreadable, count + len(found.unreadable))
    notes = [*found.notes, *describe(ranges)]
    if dataset.resize == "auto" and (chosen := describe_choice(training.sizes, len(parts) > 1)):
        notes.append(chosen)
    if several:
        having = counted(len(several), "image has", "images have")
        notes.append(f"{having} several frames or pages, such as {min(several)}: the first is used")
    if dataset.strict and unreadable:
        raise InputError(f"{note}. Repair or remove them, or set dataset.strict=false to leave them out")
    splits = _checked_splits(dataset, found.classes, decoded, note, by_content)
    names = {}
    for (split, content, rows), part in zip(splits, ("train", "test"), strict=True):
        writer.write(part, split.images, split.labels, rows, content[rows])
        names[part] = [split.names[row] for row in rows.tolist()]
    del decoded, splits, split  # Windows removes no file that is mapped
    for number in range(len(parts)):
        (writer.aside / f"decoded-{number}").unlink()
    about = {"names": names, "unreadable": unreadable, "sizes": sizes.ravel().tolist()}
    about |= {"notes": notes, "examples": examples}
    with writing(writer.folder):
        np.save(writer.aside / WHOLE, whole)
        (writer.aside / ABOUT).write_text(as_json(about), "utf-8")
    told = [*([f"left out: {note}"] if note else ()), *notes]
    writer.finish(found.classes, "; ".join(told), levels if ranges else None, resize)


def _checked_splits(
    dataset: "Dataset", classes: tuple[str, ...], decoded: list[Decoded], note: str, by_content: bool
) -> list[Split]:
    """The training and the test split. Raises InputError if there is nothing to learn, or a class has no images."""
    hashes = [content_hashes(each.images) for each in decoded]
    if sum(map(len, hashes)) > 1 and len(np.unique(np.concatenate(hashes))) == 1:
        raise InputError(f"all images of {dataset.name} are the same, pixel by pixel: there is nothing to learn")
    splits = _splits(dataset, classes, decoded, hashes, by_content)
    for (split, _, rows), part in zip(splits, ("train on", "test with"), strict=True):
        _require_classes(dataset.name, classes, split.labels[rows], part, note)
    return splits


def _splits(
    dataset: "Dataset",
    classes: tuple[str, ...],
    decoded: list[Decoded],
    hashes: list[NDArray[np.uint64]],
    by_content: bool,
) -> list[Split]:
    """The training and the test split. Images that come without a test split are divided."""
    splits = [
        (each, content, canonical_order(each.images, each.labels))
        for each, content in zip(decoded, hashes, strict=True)
    ]
    if len(splits) == 2:
        return splits
    ((each, content, order),) = splits
    whole = ImageData(dataset.name, each.images, each.labels[order], classes, "")
    share, seed = dataset.test_share, dataset.split_seed
    if by_content:
        halves = content_split(content[order], whole.labels, share, seed, "test")
    else:
        halves = stratified_split(whole, share, seed)
    return [(each, content, order[rows]) for rows in halves]


def _require_classes(name: str, classes: tuple[str, ...], labels: NDArray[np.int64], part: str, left_out: str) -> None:
    """Raise InputError for labels of no class, and for classes without an image to train on, or without any.

    `left_out` tells of the images that are left out, which may be all of a class.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(f"{name} has labels outside of [0, {len(classes)}): number the classes from 0 on")
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all() and (part == "train on" or not len(labels)):
        absent = [classes[label] for label in np.flatnonzero(counts == 0).tolist()]
        which = f"class {absent[0]}" if len(absent) == 1 else f"{len(absent)} classes ({', '.join(absent[:5])})"
        why = f" ({left_out})" if left_out else ""
        raise InputError(f"{name} has no image of {which} to {part}{why}: add some, or remove the class")


def read(name: str, folder: Path) -> Opened | None:
    """Open the arrays that `write` has written, with the names of their images; None if there are none."""
    splits = read_arrays(name, folder)
    try:
        about = from_json((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):  # earlier versions did not write it
        return None
    if splits is None:
        return None
    train, test = (
        Decoded(split.images, split.labels, about["names"][part], [], split.hashes)
        for split, part in zip(with_hashes(folder, splits), ("train", "test"), strict=True)
    )
    sizes = np.array(about["sizes"], np.int64).reshape(-1, 2)
    return Opened(
        splits[0].classes,
        train,
        test,
        sizes,
        [(name, why) for name, why in about["unreadable"]],
        about.get("notes", ()),
        splits[0].resize,
        _examples(folder, about.get("examples", ()), (train, test)),
    )


def _examples(folder: Path, names: Sequence[str], parts: Sequence[Decoded]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The images that `write` has kept whole, with their names and the images in the arrays; empty if it kept none."""
    try:
        images = np.load(folder / WHOLE, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # earlier versions did not write it
        return []
    found = []
    for name, image in zip(names, images, strict=False):
        part = next((part for part in parts if name in part.names), None)
        if part is not None:
            found.append((name, image, part.images[part.names.index(name)]))
    return found
