"""A user's own images: found by a source, decoded and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastconv.data.dataset import ImageData
from fastconv.data.sources.base import Source
from fastconv.data.sources.decode import Decoded, choose_size, decode, look
from fastconv.data.splits import stratified_split
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


@dataclass(frozen=True)
class Opened:
    """The images that were read from a source: its splits, and notes about all of its files.

    `sizes` are (width, height) of the readable images, `unreadable` are (name, reason) of the others; `notes` are
    those of `Found`.
    """

    classes: tuple[str, ...]
    train: Decoded
    test: Decoded
    sizes: list[tuple[int, int]]
    unreadable: list[tuple[str, str]]
    notes: Sequence[str] = ()

    @property
    def note(self) -> str:
        """All that a user should know of what was not read, in one line; empty if there is nothing."""
        return "; ".join([*([f"left out: {self.unreadable_note}"] if self.unreadable else ()), *self.notes])

    @property
    def unreadable_note(self) -> str:
        """A sentence about the images that could not be read; empty if all could."""
        if not self.unreadable:
            return ""
        (name, why), count = self.unreadable[0], len(self.sizes) + len(self.unreadable)
        return f"{len(self.unreadable):,} of {count:,} images cannot be read, such as {name} ({why})"


def read(dataset: "Dataset", source: Source) -> Opened:
    """Decode the images of a source, with a progress bar, and split them if they come without a test split.

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
    unreadable += found.unreadable
    if found.test is None:
        whole = ImageData(dataset.name, splits[0].images, splits[0].labels, found.classes, "")
        splits = [splits[0].take(rows) for rows in stratified_split(whole, dataset.test_share, dataset.split_seed)]
    train, test = splits
    opened = Opened(found.classes, train, test, sizes, unreadable, found.notes)
    if dataset.strict and unreadable:
        raise InputError(
            f"{opened.unreadable_note}. Mend or remove them, or set dataset.strict=false to go on without them"
        )
    for labels, part in ((opened.train.labels, "train on"), (opened.test.labels, "test with")):
        absent = [name for label, name in enumerate(found.classes) if not (labels == label).any()]
        if absent and (part == "train on" or not len(labels)):
            name = absent[0]
            raise InputError(f"{dataset.name} has no image of class {name} to {part}: add some, or remove the class")
    return opened
