"""The names of a user's images, found by their content: which file a wrong prediction is about."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.loading import stored_images
from fastconv.data.sources.custom import Opened
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


def image_names(
    dataset: "Dataset", root: Path, own: Sequence[Path], images: ImageData, rows: Sequence[int] | np.ndarray
) -> list[str | None]:
    """The names of the images at some rows: a file below `dataset.root`, a row of a table, a member of a tar.

    None for those that have none: images of built-in data sets and of a user's function.

    Args:
        root: the data folder.
        own: folders that fastconv writes to (`Config.own_folders`).
        images: images of the data set, as they are decoded.
    """
    nameless: list[str | None] = [None] * len(rows)
    if images.hashes is None or not len(rows) or dataset.is_builtin or dataset._target_ is not None:
        return nameless
    wanted = images.hashes[np.asarray(rows)]
    sized = dataclasses.replace(dataset, image_size=images.images.shape[1])  # for a size that has grown since
    for by_content in (True, False):
        for each in (dataset, sized):
            try:
                opened = stored_images(each, root, own, by_content)
            except InputError:  # the images are there, so that a server may be gone, but their names are no necessity
                return nameless
            names = _named(opened, wanted) if opened else nameless
            if any(names):
                return names
    return nameless


def _named(opened: Opened, wanted: np.ndarray) -> list[str | None]:
    """The names of images with some hashes, uint64 [M], those of the test split first; copies in their order."""
    found: dict[int, list[str]] = defaultdict(list)
    for part in (opened.test, opened.train):
        if part.hashes is not None:
            for row in np.flatnonzero(np.isin(part.hashes, wanted)).tolist():
                found[int(part.hashes[row])].append(part.names[row])
    taken: dict[int, int] = defaultdict(int)
    names: list[str | None] = []
    for content in wanted.tolist():
        there = found.get(content, [])
        names.append(there[min(taken[content], len(there) - 1)] if there else None)
        taken[content] += 1
    return names
