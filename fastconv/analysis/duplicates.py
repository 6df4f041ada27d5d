"""Finds equal images, also in large data sets: by hashes, then by pixels where hashes agree."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastconv.data.hashes import content_hashes


def equal_images(
    splits: Sequence[np.ndarray], known: Sequence[NDArray[np.uint64] | None]
) -> list[list[tuple[int, int]]]:
    """Return the groups of two or more equal images, each as (split, row), in the order of their first images.

    Args:
        splits: images uint8 [N, H, W, C]; may be memory maps.
        known: the hashes of each split's images, uint64 [N], where they are stored.
    """
    hashes = np.concatenate(
        [content_hashes(images) if there is None else there for images, there in zip(splits, known, strict=True)]
    )
    begins = np.cumsum([0, *map(len, splits)])
    order = np.argsort(hashes, kind="stable")
    first = np.flatnonzero(np.concatenate([[True], np.diff(hashes[order]) != 0])[: len(order)])  # of equal hashes
    sizes = np.diff(np.append(first, len(order)))
    alike = [
        order[start : start + size].tolist() for start, size in zip(first[sizes > 1], sizes[sizes > 1], strict=True)
    ]
    found = []
    for places in sorted(alike, key=min):
        groups: dict[bytes, list[tuple[int, int]]] = {}
        for place in places:
            split = int(np.searchsorted(begins, place, side="right")) - 1
            row = place - int(begins[split])
            groups.setdefault(splits[split][row].tobytes(), []).append((split, row))
        found += [group for group in groups.values() if len(group) > 1]
    return found
