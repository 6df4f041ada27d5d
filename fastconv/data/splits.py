"""Splits of a data set: the images to train on, to hold out and to test on."""

from dataclasses import dataclass

import numpy as np

from fastconv.data.dataset import ImageData


@dataclass(frozen=True)
class Splits:
    """The images of a run: the training images, the held-out ones (maybe none), and the test split."""

    train: ImageData
    holdout: ImageData
    test: ImageData


def stratified_split(data: ImageData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split into rows (kept, held), each int64 and ascending; `held` has the same `fraction` of every class."""
    generator = np.random.Philox(key=np.array([seed, 0], np.uint64))
    parts = []
    for label in range(len(data.classes)):
        rows = np.flatnonzero(data.labels == label)
        shuffled = rows[np.argsort(generator.random_raw(len(rows)), kind="stable")]
        parts.append(shuffled[: round(fraction * len(rows))])
    held = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(data)), held), held
