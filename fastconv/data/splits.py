"""Splits of a data set: the images to train on, to hold out and to test on."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fastconv.data.dataset import ImageData


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


def stratified_split(data: ImageData, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split into rows (kept, held), each int64 and ascending; `held` has the same `fraction` of every class.

    Rows are drawn by their position: for images that never change, such as those of the built-in data sets.
    """
    generator = np.random.Philox(key=np.array([seed, 0], np.uint64))
    parts = []
    for label in range(len(data.classes)):
        rows = np.flatnonzero(data.labels == label)
        shuffled = rows[np.argsort(generator.random_raw(len(rows)), kind="stable")]
        parts.append(shuffled[: round(fraction * len(rows))])
    held = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(data)), held), held


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
        fraction: in [0, 1); a class gets `fraction` of its images, rounded, unless copies prevent it.
        seed, purpose: another seed or purpose gives another draw.
    """
    order = np.argsort(_places(hashes, seed, purpose), kind="stable")
    copies: dict[int, list[int]] = defaultdict(list)  # rows by content, in the order of the draw
    for row, content in zip(order.tolist(), hashes[order].tolist(), strict=True):
        copies[content].append(row)
    groups: dict[int, list[list[int]]] = defaultdict(list)
    for rows in copies.values():
        groups[min(int(labels[row]) for row in rows)].append(rows)
    held = [row for each in groups.values() for rows in _drawn(each, fraction) for row in rows]
    is_held = np.zeros(len(labels), bool)
    is_held[held] = True
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _places(hashes: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Random numbers, uint64 [N], which depend on nothing but the content, the seed and the purpose."""
    salted = hashlib.sha256(f"{purpose} {seed} ".encode())

    def place(content: bytes) -> bytes:
        copy = salted.copy()
        copy.update(content)
        return copy.digest()[:8]

    content = hashes.astype("<u8").tobytes()
    return np.frombuffer(b"".join(place(content[at : at + 8]) for at in range(0, len(content), 8)), "<u8")


def _drawn(groups: list[list[int]], fraction: float) -> list[list[int]]:
    """The first groups of copies that together have `fraction` of the images."""
    wanted = round(fraction * sum(map(len, groups)))
    found, count = [], 0
    for rows in groups:
        if count + len(rows) <= wanted:
            found.append(rows)
            count += len(rows)
    if wanted and not found and len(groups) > 1:  # every image has copies, more than are wanted
        found.append(min(groups, key=len))
    return found
