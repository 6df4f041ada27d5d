"""A user's own images as numpy arrays in a .npz file."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.data.sources.array_keys import find_keys
from fastconv.data.sources.array_values import as_images, as_labels, require_images, shape_of
from fastconv.data.sources.base import Found, Source, source
from fastconv.data.sources.decode import LazySamples, Sample
from fastconv.data.sources.labels import NO_LABEL, class_names, class_notes, numbered
from fastconv.data.sources.npz import open_npz
from fastconv.data.sources.unpacking import IMAGE_BYTES
from fastconv.system.errors import InputError
from fastconv.system.memory import release_pages

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Names of arrays whose first stamps did not have them.
FIRST_KEYS = [("images", "labels"), ("test_images", "test_labels")]
# What the names of images begin with: of those to train on, and to test with.
BEFORE = ("", "test ")
# Part of the stamp of images that are not uint8: to be counted up when other values of them are refused than before.
VALUES = 2
# Images after which the pages of a memory-mapped array are given back.
RELEASE_EVERY = 4096


@source("arrays")
def arrays(dataset: "Dataset", data: Path) -> Source:
    """A .npz with `images`, uint8 [N, H, W] or [N, H, W, C], and `labels` [N], numbers or names. It may have
    `test_images` and `test_labels` too. Other names that are in use are known as well (`array_keys`)."""
    path = Path(dataset.root or "")
    if not dataset.root or not path.is_file():
        raise InputError(f"dataset.root={dataset.root} is no file: give a .npz that has arrays images and labels")
    stored = open_npz(path)
    keys, unused = find_keys(path, stored)
    labels_of = []
    for images_key, labels_key in keys:
        images, labels = stored[images_key], stored[labels_key]
        if not images.ndim or not labels.ndim or images.count != labels.count:
            raise InputError(
                f"{path} needs as many {labels_key} as {images_key}: they are {shape_of(labels.shape)} and"
                f" {shape_of(images.shape)}"
            )
        require_images(images.shape, images.dtype, f"{path} has {images_key}")
        images.require_plain(images.count * IMAGE_BYTES)
        labels_of.append(as_labels(labels.read(), f"{path} has {labels_key}"))
    unlabelled = [
        (f"{before}image {at}", NO_LABEL)
        for before, labels in zip(BEFORE, labels_of, strict=False)
        for at, label in enumerate(labels)
        if label is None
    ]
    names = class_names((label for labels in labels_of for label in labels if label is not None), path, unlabelled)
    classes, number = numbered(names)
    notes = [f"{path} has arrays that are not used: {', '.join(unused[:8])}"] if unused else []

    def find() -> Found:
        samples = []
        for before, (key, _), labels in zip(BEFORE, keys, labels_of, strict=False):
            images = as_images(stored[key].map(data / "arrays"), f"{path} has {key}")
            rows = [at for at, label in enumerate(labels) if label is not None]
            samples.append(ArraySamples(before, images, rows, [number[label] for label in labels if label is not None]))
        return Found.of(classes, samples, unlabelled)

    told: list[Any] = [] if keys == FIRST_KEYS[: len(keys)] else [keys]
    if any(stored[key].dtype != np.uint8 for key, _ in keys):
        told.append(VALUES)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source([classes, digest, *told], find, (*notes, *class_notes(classes)))


class ArraySamples(LazySamples):
    """Images of an array as samples.

    Args:
        before: what their names begin with.
        images: whole numbers from 0 to 255 [N, H, W] or [N, H, W, C]; may be a memory map.
        rows: of the array, for each sample.
        labels: the class of each sample.
    """

    def __init__(self, before: str, images: np.ndarray, rows: list[int], labels: list[int]) -> None:
        self._before, self._images, self._rows, self._labels = before, images, rows, labels

    def __len__(self) -> int:
        return len(self._labels)

    def sample(self, at: int) -> Sample:
        """The sample at a place, counted from 0."""
        row = self._rows[at]
        return Sample(f"{self._before}image {row}", self._labels[at], partial(self._read, row))

    def _read(self, row: int) -> np.ndarray:
        if row % RELEASE_EVERY == 0:
            release_pages(self._images)
        return np.ascontiguousarray(self._images[row], np.uint8)
