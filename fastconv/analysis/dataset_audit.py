"""Audit of a data set before training: counts, sizes, unreadable files, duplicates and leaks."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.analysis import figures, run_figures
from fastconv.analysis.duplicates import equal_images
from fastconv.analysis.html import Figure, Table, write_page
from fastconv.config.prerequisites import too_large_batch
from fastconv.config.schema import Config
from fastconv.data.loading import load, open_described, open_source
from fastconv.data.sources.aspect_ratios import lose_much
from fastconv.data.sources.base import Source
from fastconv.data.sources.custom import Opened
from fastconv.data.sources.decode import Decoded
from fastconv.data.sources.labels import NO_LABEL
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.runs.folder import new_run_folder
from fastconv.system.errors import InputError
from fastconv.system.names import csv_cell, printable
from fastconv.system.wording import counted

# Ratio of the largest to the smallest class, and images of a class, from which on the report warns.
IMBALANCE, FEW = 3, 100
# Images of each class on the contact sheet, and classes on it.
SHOWN, SHOWN_CLASSES = 10, 20
# What a row about an image has, and rows on the page: all are in findings.csv.
ABOUT_IMAGES = ("finding", "image", "about")
PAGE_ROWS = 500
# Pairs of an image and what networks see of it in a row of their sheet.
PAIRS = 3


@dataclass(frozen=True)
class Audit:
    """A data set and its problems.

    `duplicates`: names of images that are equal within a split; `leaked`: pairs (training image, test image) that are
    equal; `contradictory`: names of equal images with different labels. Images are compared as the network sees them.
    `notes`: how the source is understood and what is passed over; `problems`: what keeps it from being trained on.
    """

    name: str
    opened: Opened
    duplicates: list[list[str]]
    leaked: list[tuple[str, str]]
    contradictory: list[list[str]]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def report(self) -> list[str]:
        """Return the findings as lines, each with advice on what to do."""
        train, test, classes = self.opened.train, self.opened.test, self.opened.classes
        height, width, channels = train.images.shape[1:]
        lines = [
            f"{self.name}: {counted(len(train.labels), 'image')} to train on and {len(test.labels):,} to test with,"
            f" {counted(len(classes), 'class')}, as {width}x{height}x{channels}"
        ]
        if len(sizes := self.opened.sizes):
            (width, height), (most_width, most_height) = sizes.min(0).tolist(), sizes.max(0).tolist()
            lines.append(
                f"sizes: {_span(width, most_width)} pixels wide, {_span(height, most_height)} high; median of the"
                f" shorter sides {np.median(sizes.min(1)):g}"
            )
            if count := int(lose_much(sizes).sum()):
                lines.append(_shape_line(self.opened.resize, count))
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.notes]
        counts = np.bincount(train.labels, minlength=len(classes))
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] > IMBALANCE * max(1, counts[least]):
            lines.append(
                f"uneven classes: {classes[most]} has {counted(counts[most], 'image')}, {classes[least]}"
                f" {counts[least]:,}. Train with objective=balanced_accuracy or macro_f1, and collect more of the"
                " rare ones"
            )
        if few := [name for name, count in zip(classes, counts, strict=True) if count < FEW]:
            those = counted(len(few), "class has", "classes have")
            lines.append(f"few images: {those} fewer than {FEW} (such as {few[0]}): more would help most")
        if self.opened.unreadable:
            kind = "unreadable" if any(why != NO_LABEL for _, why in self.opened.unreadable) else "unlabelled"
            lines.append(f"{kind}: {self.opened.note}. Training leaves them out; dataset.strict=true would stop")
        if self.leaked:
            one, other = self.leaked[0]
            lines.append(
                f"leak: {counted(len(self.leaked), 'test image is', 'test images are')} among the training images, such"
                f" as {other}, which is {one}. Remove them from one side, or the accuracy will be too high"
            )
        if self.duplicates:
            copies = sum(len(names) - 1 for names in self.duplicates)
            lines.append(
                f"copies: {counted(copies, 'image is', 'images are')} there again in the same split, such as"
                f" {' and '.join(self.duplicates[0][:2])}"
            )
        if self.contradictory:
            lines.append(
                f"contradictory: {counted(len(self.contradictory), 'image has', 'images have')} several labels, such as"
                f" {' and '.join(self.contradictory[0][:2])}. Decide which is right"
            )
        if len(lines) == 1 + bool(len(sizes)):
            lines.append("no problems found")
        return [printable(line) for line in lines]

    def rows(self) -> list[list[str]]:
        """Return a row for every finding about an image: `ABOUT_IMAGES`."""
        found = [["unlabelled" if why == NO_LABEL else "unreadable", name, why] for name, why in self.opened.unreadable]
        found += [["leak", test, f"is {train}"] for train, test in self.leaked]
        for finding, groups in (("copy", self.duplicates), ("contradictory", self.contradictory)):
            found += [[finding, names[0], f"is {name}"] for names in groups for name in names[1:]]
        return found

    def counts(self) -> list[tuple[str, int, int]]:
        """Return each class with its numbers of images to train on and to test with."""
        classes = self.opened.classes
        numbers = (
            np.bincount(part.labels, minlength=len(classes)).tolist() for part in (self.opened.train, self.opened.test)
        )
        return list(zip(classes, *numbers, strict=True))


def _shape_line(resize: str, count: int) -> str:
    """What becomes of `count` images that would lose more than a quarter to a crop, and what to do about it."""
    if resize == "pad":
        images = counted(count, "image has", "images have")
        return f"padded: {images} more than a quarter of padding added, so that networks see them whole"
    if resize == "squash":
        images = counted(count, "image loses", "images lose")
        return (
            f"squashed: {images} more than a quarter of the longer side's resolution, and their aspect ratio with it."
            " dataset.resize=pad keeps it"
        )
    images = counted(count, "image loses", "images lose")
    return (
        f"cropped: {images} more than a quarter to the square in the middle that networks see. Show them whole with"
        " dataset.resize=pad, or cut them to what they show"
    )


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def audit(config: Config) -> Audit:
    """Read a data set and search it for problems. Raises InputError, which names all of them, for one that cannot be
    read at all."""
    dataset, root = config.dataset, Path(config.data)
    source = None if dataset.is_builtin else open_source(dataset, root, config.own_folders())
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    if not isinstance(source, Source):
        splits = load(dataset, root)
        train, test = (
            Decoded(split.images, split.labels, [f"{part} image {at}" for at in range(len(split))], [], split.hashes)
            for split, part in zip(splits, ("training", "test"), strict=True)
        )
        opened = Opened(splits[0].classes, train, test, np.empty((0, 2), np.int64), [])
    else:
        try:
            opened = open_described(dataset, root, source)
        except InputError as error:
            raise InputError("; ".join([*source.problems, str(error)])) from error
        notes = tuple(filter(None, (*source.notes, source.audit_note(), *opened.notes)))
        problems = source.problems
    too_large = too_large_batch(config, len(opened.train.labels))
    if too_large and "batch_size" not in config.autotune:
        notes = (*notes, too_large)
    parts = (opened.train, opened.test)
    duplicates: list[list[str]] = []
    leaked: list[tuple[str, str]] = []
    contradictory: list[list[str]] = []
    for places in equal_images([part.images for part in parts], [part.hashes for part in parts]):
        in_train, in_test = ([part.names[row] for at, row in places if parts[at] is part] for part in parts)
        duplicates += [names for names in (in_train, in_test) if len(names) > 1]
        leaked += [(in_train[0], name) for name in in_test if in_train]
        if len({int(parts[at].labels[row]) for at, row in places}) > 1:
            contradictory.append([parts[at].names[row] for at, row in places])
    return Audit(dataset.name, opened, duplicates, leaked, contradictory, notes, problems)


def write(found: Audit, config: Config) -> Path:
    """Write the findings, the pictures and a page of both, `audit.html`, to a new folder, and return it."""
    folder = new_run_folder(Path(config.outputs) / found.name, prefix="audit-")
    lines, rows, counts = found.report(), found.rows(), found.counts()
    (folder / "audit.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, header, table in (
        ("findings", list(ABOUT_IMAGES), rows),
        ("classes", ["class", "train", "test"], counts),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(map(csv_cell, row) for row in table)
    figures_of = draw(found, config, folder)
    more = counted(max(0, len(rows) - PAGE_ROWS), "more is", "more are")
    write_page(
        folder / "audit.html",
        "audit.html",
        title=f"Audit of {found.name}",
        findings=lines,
        classes=Table(
            ["class", "images to train on", "to test with"],
            [[name, f"{train:,}", f"{test:,}"] for name, train, test in counts],
            sortable=True,
        ),
        figures=figures_of,
        images=Table(ABOUT_IMAGES, rows[:PAGE_ROWS], sortable=True),
        more=f"{more} in findings.csv." if len(rows) > PAGE_ROWS else "",
    )
    return folder


def draw(found: Audit, config: Config, folder: Path) -> list[Figure]:
    """Draw training images of each class, and the first of the training stream, to files of a folder."""
    from fastconv.data.dataset import ImageData, evenly_spread

    train, classes = found.opened.train, found.opened.classes
    places = [np.flatnonzero(train.labels == label) for label in range(min(len(classes), SHOWN_CLASSES))]
    # Images of a class are in the order of their pixels: the first ones are its darkest.
    shown = [rows[evenly_spread(len(rows), SHOWN)] for rows in places]
    tiles = [[figures.Tile(train.images[row], printable(classes[train.labels[row]])) for row in each] for each in shown]
    figures.draw_tiles(tiles, f"{found.name}: training images", folder / "images.png", inches=1.1)
    if examples := found.opened.examples:
        pairs = [
            (
                figures.Tile(whole, "\n".join(map(printable, name.split("/")[-2:]))),
                figures.Tile(seen, found.opened.resize),
            )
            for name, whole, seen in examples
        ]
        rows = [[tile for pair in pairs[at : at + PAIRS] for tile in pair] for at in range(0, len(pairs), PAIRS)]
        title = f"{found.name}: images as they are, and as networks see them"
        figures.draw_tiles(rows, title, folder / "resized.png")
    data = ImageData(found.name, train.images, train.labels, classes, "")
    spec = stream_spec(data, config.augment, config.stream.seed)
    stream = OnlineStream(spec, data)
    run_figures.draw_augmented(*stream.rows(0, run_figures.GRID_IMAGES), spec, folder / "augmented.png")
    stream.close()
    resized = Figure(
        folder / "resized.png",
        "Images as they are and as networks see them",
        f"Images that are far from square, and what networks see of them with dataset.resize={found.opened.resize}.",
    )
    which = f" of the first {SHOWN_CLASSES} classes" if len(classes) > SHOWN_CLASSES else " of each class"
    return [
        Figure(folder / "images.png", "Training images by class", f"Training images{which}, as networks see them."),
        *([resized] if found.opened.examples else []),
        Figure(folder / "augmented.png", "Augmented images", "The first images of the training stream, augmented."),
    ]
