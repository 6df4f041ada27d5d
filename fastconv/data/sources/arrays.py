"""A user's own images as numpy arrays in a .npz file."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from fastconv.data.sources.base import Found, Source, natural, source
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.npz import open_npz
from fastconv.system.errors import InputError
from fastconv.system.memory import release_pages

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Images after which the pages of a memory-mapped array are given back.
RELEASE_EVERY = 4096


@source("arrays")
def arrays(dataset: "Dataset", data: Path) -> Source:
    """A .npz with `images`, uint8 [N, H, W] or [N, H, W, C], and `labels` [N], numbers or names. It may have
    `test_images` and `test_labels` too."""
    path = Path(dataset.root or "")
    if not dataset.root or not path.is_file():
        raise InputError(f"dataset.root={dataset.root} is no file: give a .npz that has arrays images and labels")
    stored = open_npz(path)
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
        splits.append((images, list(map(str, labels.read().tolist()))))
    classes = sorted({label for _, labels in splits for label in labels}, key=natural)
    if len(classes) < 2:
        raise InputError(f"{path} has labels of {len(classes)} classes: a classifier needs two or more")

    def find() -> Found:
        numbers = {name: number for number, name in enumerate(classes)}
        samples = [
            ArraySamples(before, images.map(data / "arrays"), [numbers[label] for label in labels])
            for before, (images, labels) in zip(("", "test "), splits, strict=False)
        ]
        return Found.of(classes, samples)

    with path.open("rb") as file:
        return Source([classes, hashlib.file_digest(file, "sha256").hexdigest()], find)


class ArraySamples(Sequence[Sample]):
    """The images of an array as samples: uint8 [N, H, W] or [N, H, W, C]; may be a memory map."""

    def __init__(self, before: str, images: np.ndarray, labels: list[int]) -> None:
        self._before, self._images, self._labels = before, images, labels

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...

    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return Sample(f"{self._before}image {at}", self._labels[at], partial(self._read, at))

    def _read(self, at: int) -> np.ndarray:
        if at % RELEASE_EVERY == 0:
            release_pages(self._images)
        image: np.ndarray = self._images[at]
        return image
