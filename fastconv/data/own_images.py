"""Finds the images of a run, as `splits.json` records them, in its data set as it is now.

So a run that is evaluated or resumed has its own images again, however the data set has changed since: an image that
was trained on is never scored as a test image.
"""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.hashes import content_hashes
from fastconv.data.image_rows import choose_rows
from fastconv.data.loading import hold_out, load, open_splits
from fastconv.data.split_record import FILE, RecordedImages, SplitRecord
from fastconv.data.splits import Splits
from fastconv.system.errors import InputError, nearest
from fastconv.system.names import nfc
from fastconv.system.wording import counted

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# The largest `dataset.image_size`: a record that somebody else wrote must not fill the memory.
LARGEST_SIDE = 1024


@dataclass(frozen=True)
class Changes:
    """How a data set has changed since a run began, in numbers of images."""

    new: int = 0
    relabelled: int = 0
    gone: dict[str, int] = field(default_factory=dict)
    """By the name of the split."""

    def sentence(self) -> str:
        """The changes in a sentence; empty if there are none."""
        found = []
        if self.new:
            found.append(f"{_images(self.new)} new since this run, and left out")
        if missing := {split: count for split, count in self.gone.items() if count}:
            each = " and ".join(f"{count:,} of the {split} images" for split, count in missing.items())
            found.append(f"{_images(sum(missing.values()))} gone ({each})")
        if self.relabelled:
            found.append(f"{_images(self.relabelled)} of another class now")
        return "; ".join(found) + "." if found else ""


@dataclass(frozen=True)
class OwnImages:
    """The images of a run, as they are found in its data set now, and how that has changed since it began."""

    splits: Splits
    changes: Changes = Changes()
    has_record: bool = True
    """Whether the run kept which images it has; a run of an earlier version did not."""


def own_images(
    dataset: "Dataset", root: Path, run: Path, own: Sequence[Path] = (), test_digest: str | None = None
) -> OwnImages:
    """The images that a run trained on, held out and tested on, each split in the order that the run had it in.

    Images that are new to the data set are left out, as are those that are gone. Labels are those of today. A run of an
    earlier version has no record: its splits are drawn as that version did.

    Args:
        dataset: the run's own config of its data set.
        root: the data folder.
        run: the run's folder.
        own: folders that fastconv writes to (`Config.own_folders`), which hold no images to train on.
        test_digest: that of the run's test images by its results, where the record may be lost; None if not known.

    Raises InputError as `load` does, if the data set lacks a class of the run or all of its test images, and if the
    record is lost and the test images are others now.
    """
    record = SplitRecord.read(run)
    if record is None and test_digest is not None:
        splits = open_splits(dataset, root, own)
        if splits.test.digest[:16] == test_digest:
            return OwnImages(splits)
        raise InputError(
            f"{run / FILE} is missing, and the test images of {dataset.name} are not those of the run's results: some"
            " may be training images. Restore the file or the images, or train again"
        )
    if record is None:
        return OwnImages(open_splits(dataset, root, own, by_content=False), has_record=False)
    parts = load(dataset, root, own)
    if parts[0].resize != record.resize:  # dataset.resize=auto chooses by the images of today
        dataset = dataclasses.replace(dataset, resize=record.resize)
        parts = load(dataset, root, own)
    splits = hold_out(dataset, *parts)
    if _is_unchanged(record, splits):
        return OwnImages(splits)
    found = _found(record, _pool(dataset, root, own, parts, record, run))
    if not len(found.splits.test):
        raise InputError(
            f"none of {counted(len(record.test.hashes), 'test image')} of {run} is in {dataset.name} now: give the data"
            " set that it was trained on (run the command where it was trained, or put the images back)"
        )
    return found


def _is_unchanged(record: SplitRecord, splits: Splits) -> bool:
    ours = [data.digest for data in (splits.train, splits.holdout, splits.test)]
    return record.classes == splits.train.classes and [part.digest for part in record.parts] == ours


def _pool(
    dataset: "Dataset",
    root: Path,
    own: Sequence[Path],
    parts: tuple[ImageData, ImageData],
    record: SplitRecord,
    run: Path,
) -> list[ImageData]:
    """Today's images in the size, the colours and with the label numbers of the run; -1 for a class that it lacks."""
    side, channels = record.shape[0], record.shape[2]
    if parts[0].images.shape[1] != side <= LARGEST_SIDE and dataset.image_size is None:  # it follows from the images
        parts = load(dataclasses.replace(dataset, image_size=side), root, own)
    names = list(map(nfc, parts[0].classes))
    if missing := [name for name in record.classes if nfc(name) not in names]:
        raise InputError(
            f"{dataset.name} has no class {missing[0]}, which {run} was trained on{nearest(missing[0], names)} Give its"
            " images their class back, or train anew"
        )
    number = {nfc(name): at for at, name in enumerate(record.classes)}
    label_of = np.array([number.get(name, -1) for name in names])
    pool = [_in_colours(dataclasses.replace(data, labels=label_of[data.labels]), channels) for data in parts]
    if pool[0].images.shape[1:] != record.shape:
        now, then = ("x".join(map(str, shape)) for shape in (pool[0].images.shape[1:], record.shape))
        raise InputError(f"{dataset.name} has images of {now} now, and {run} was trained on {then}: train anew")
    return pool


def _in_colours(data: ImageData, channels: int) -> ImageData:
    """Images are grey if all of a data set are: a single one in colour gives all of them three channels, equal ones."""
    if data.images.shape[3] == channels or channels not in (1, 3):
        return data
    images = np.repeat(data.images, channels, axis=3) if channels > 1 else np.asarray(data.images[..., :1])
    return dataclasses.replace(data, images=images, hashes=content_hashes(images))


def _found(record: SplitRecord, pool: list[ImageData]) -> OwnImages:
    """The images of a record in today's pool."""
    hashes = np.concatenate([content_hashes(data.images) if data.hashes is None else data.hashes for data in pool])
    labels = np.concatenate([data.labels for data in pool])
    wanted_hashes = np.concatenate([part.hashes for part in record.parts]).tolist()
    wanted_labels = np.concatenate([part.labels for part in record.parts]).tolist()
    exact: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in range(len(hashes) - 1, -1, -1):  # so that `pop` takes the first of several copies
        exact[int(hashes[row]), int(labels[row])].append(row)
    rows = [found.pop() if (found := exact.get(key)) else -1
            for key in zip(wanted_hashes, wanted_labels, strict=True)]  # fmt: skip
    left: dict[int, list[int]] = defaultdict(list)
    for (content, label), unused in exact.items():
        if label >= 0:
            left[content] += unused
    relabelled = 0
    for at, row in enumerate(rows):
        if row < 0 and left.get(wanted_hashes[at]):
            rows[at], relabelled = left[wanted_hashes[at]].pop(), relabelled + 1
    places = np.array(rows, np.int64)
    bounds = np.cumsum([len(part.hashes) for part in record.parts])[:-1]
    each = np.split(places, bounds)
    train, holdout, test = (
        _taken(pool, record.classes, part, at, hashes) for part, at in zip(record.parts, each, strict=True)
    )
    gone = {name: int((at < 0).sum()) for name, at in zip(("training", "held-out", "test"), each, strict=True)}
    changes = Changes(len(hashes) - int((places >= 0).sum()), relabelled, gone)
    return OwnImages(Splits(train, holdout, test), changes)


def _taken(
    pool: list[ImageData], classes: tuple[str, ...], part: RecordedImages, rows: np.ndarray, hashes: np.ndarray
) -> ImageData:
    """The images at some rows of the pool, without those at -1; the digest of the record if they are all there."""
    found, first = rows[rows >= 0], pool[0]
    images = choose_rows([data.images for data in pool], found)
    labels = np.concatenate([data.labels for data in pool])[found]
    content = hashes[found]
    whole = dataclasses.replace(
        first, images=images, labels=labels, classes=classes, digest=part.digest, hashes=content
    )
    if len(found) == len(rows) and np.array_equal(labels, part.labels):
        return whole
    changed = part.digest.encode() + content.tobytes() + labels.tobytes()
    return dataclasses.replace(whole, digest=hashlib.sha256(changed).hexdigest())


def _images(count: int) -> str:
    return counted(count, "image is", "images are")
