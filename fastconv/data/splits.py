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
    order = np.argsort(data.labels, kind="stable")  # the rows of each class, one class after the other
    labels = data.labels[order]
    begin, end = np.searchsorted(labels, [0, len(data.classes)])
    order, labels = order[begin:end], labels[begin:end]
    shuffled = order[np.lexsort((generator.random_raw(len(order)), labels))]
    held = np.zeros(len(data), bool)
    start = 0
    for count in np.bincount(labels, minlength=len(data.classes)).tolist():
        held[shuffled[start : start + round(fraction * count)]] = True
        start += count
    return np.flatnonzero(~held), np.flatnonzero(held)
