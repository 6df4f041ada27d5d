"""Splits of a data set: the images to train on, to hold out and to test on."""

import hashlib
from dataclasses import dataclass

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.system.wording import agreeing, counted


@dataclass(frozen=True)
class Splits:
    """The images of a run: the training images, the held-out ones (maybe none), and the test split."""

    train: ImageData
    holdout: ImageData
    test: ImageData

    @property
    def leaked(self) -> int:
        """The number of test images that are training images too; 0 for built-in data sets, which are not searched."""
        if self.train.hashes is None or self.test.hashes is None:
            return 0
        return int(np.isin(self.test.hashes, self.train.hashes).sum())

    @property
    def leak(self) -> str:
        """How many test images are training images too, in words without a full stop; empty if there are none."""
        if not (leaked := self.leaked):
            return ""
        those = counted(len(self.test), "test image")
        return f"{leaked:,} of {those} {agreeing(leaked, 'is a training image', 'are training images')} too"


# At most one in SET_ASIDE training images is set aside: of few images, each is worth more for training.
SET_ASIDE = 25


def set_aside(train: ImageData, count: int) -> tuple[ImageData, ImageData]:
    """Split training images into those to train on and `count` others, at even distances, so that there are as many of
    each class as among all. If they were more than one in 25, none are set aside; nor are all images of a class."""
    if count * SET_ASIDE > len(train):
        count = 0
    rows = np.linspace(0, len(train) - 1, count, dtype=np.int64)
    taken, there = (np.bincount(labels, minlength=len(train.classes)) for labels in (train.labels[rows], train.labels))
    rows = rows[(taken < there)[train.labels[rows]]]
    if not len(rows):
        return train, train.take(rows)
    return train.take(np.setdiff1d(np.arange(len(train)), rows)), train.take(rows)


def stratified_split(data: ImageData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split into rows (kept, held), each int64 and ascending; `held` has the same `fraction` of every class, but never
    all of its images.

    Rows are drawn by their position: for images that never change, such as those of the built-in data sets.
    """
    generator = np.random.Philox(key=np.array([seed, 0], np.uint64))
    order = np.argsort(data.labels, kind="stable")  # the rows of each class, one class after the other
    labels = data.labels[order]
    begin, end = np.searchsorted(labels, [0, len(data.classes)])
    order, labels = order[begin:end], labels[begin:end]
    shuffled = order[np.lexsort((generator.random_raw(len(order)), labels))]
    held = np.zeros(len(data), bool)
    start = 0
    for count in np.bincount(labels, minlength=len(data.classes)).tolist():
        held[shuffled[start : start + min(round(fraction * count), max(count - 1, 0))]] = True
        start += count
    return np.flatnonzero(~held), np.flatnonzero(held)


def content_split(
    hashes: np.ndarray, labels: np.ndarray, fraction: float, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split into rows (kept, held), each int64 and ascending; `held` has about the same `fraction` of every class.

    An image's place in the draw follows from its content alone. So files may be renamed or come in another order, and
    if images are added or removed, only about as many of the others, those at the border of the draw, change sides.
    Images with the same content stay together.

    Args:
        hashes: of the images' content, uint64 [N].
        labels: int64 [N].
        fraction: in [0, 1); a class gets `fraction` of its images, rounded, unless copies prevent it, and never all.
        seed, purpose: another seed or purpose gives another draw.
    """
    order = np.argsort(_places(hashes, seed, purpose), kind="stable")
    _, first, group, sizes = np.unique(hashes[order], return_index=True, return_inverse=True, return_counts=True)
    group_labels = np.full(len(sizes), np.iinfo(np.int64).max)
    np.minimum.at(group_labels, group, labels[order])
    by_class = np.lexsort((first, group_labels))  # groups of copies in the order of the draw, one class after the other
    group_is_held = np.zeros(len(sizes), bool)
    for groups in np.split(by_class, np.flatnonzero(np.diff(group_labels[by_class])) + 1):
        group_is_held[groups[_drawn(sizes[groups], fraction)]] = True
    is_held = np.zeros(len(labels), bool)
    is_held[order] = group_is_held[group]
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _places(hashes: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Random numbers, uint64 [N], which depend on nothing but the content, the seed and the purpose."""
    salted = hashlib.sha256(f"{purpose} {seed} ".encode())
    content = hashes.astype("<u8").tobytes()
    places = bytearray(len(content))
    for at in range(0, len(content), 8):
        copy = salted.copy()
        copy.update(content[at : at + 8])
        places[at : at + 8] = copy.digest()[:8]
    return np.frombuffer(places, "<u8")


def _drawn(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Positions of the first groups of copies, of some sizes, that together have `fraction` of the images; not of all
    groups."""
    wanted = round(fraction * int(sizes.sum()))
    parts, room, left = [], wanted, np.arange(len(sizes))
    while len(left := left[sizes[left] <= room]):  # a group that does not fit is passed over
        count = int(np.searchsorted(np.cumsum(sizes[left]), room, side="right"))
        parts.append(left[:count])
        room -= int(sizes[left[:count]].sum())
        left = left[count:]
    if wanted and not parts and len(sizes) > 1:  # every image has copies, more than are wanted
        parts.append(np.array([sizes.argmin()]))
    if parts and sum(map(len, parts)) == len(sizes):
        parts[-1] = parts[-1][:-1]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
