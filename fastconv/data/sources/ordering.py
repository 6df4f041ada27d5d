"""The order of decoded images in their arrays: by label, then by pixels, whatever order their source has."""

import numpy as np
from numpy.typing import NDArray

from fastconv.system.memory import release_pages

# Bytes of pixels that are compared at a time, of all images together and at least of each.
KEYS_BYTES, KEY_BYTES = 32 * 2**20, 64
# Images whose bytes are read at a time.
ROWS = 4096


def canonical_order(images: np.ndarray, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort images by label, then by their bytes; equal images keep their order.

    Compares some bytes of all images, then more bytes of those that are still alike, so that little of a memory map is
    in memory at a time.

    Args:
        images: uint8 [N, H, W, C].
        labels: int64 [N].

    Returns rows, int64 [N].
    """
    rows = np.argsort(labels, kind="stable")
    length = int(np.prod(images.shape[1:]))
    flat = images.reshape(len(images), length)
    # Positions of `rows` whose order is not decided yet, and the group of images that each is still alike with.
    open_places, groups = _alike(np.arange(len(rows)), labels[rows][:, None])
    at = 0
    while len(open_places) and at < length:
        width = min(max(KEY_BYTES, KEYS_BYTES // len(open_places)), length - at)
        keys = _bytes_of(flat, rows[open_places], at, at + width)
        order = np.lexsort((keys.view(f"S{width}")[:, 0], groups))
        rows[open_places] = rows[open_places][order]
        open_places, groups = _alike(open_places, np.ascontiguousarray(keys[order]), groups)
        at += width
    return rows


def _alike(
    places: NDArray[np.int64], keys: np.ndarray, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places whose keys, of the same group, are equal to a neighbour's, and a number for each such run."""
    differ = (keys[1:] != keys[:-1]).any(1)
    if groups is not None:
        differ |= groups[1:] != groups[:-1]
    first = np.concatenate([[True], differ])[: len(places)]
    run = np.cumsum(first) - 1
    several = (np.bincount(run) > 1)[run] if len(places) else first
    return places[several], run[several]


def _bytes_of(flat: np.ndarray, rows: NDArray[np.int64], start: int, stop: int) -> np.ndarray:
    """Bytes [start, stop) of some rows, uint8 [M, stop - start], read in the order of the file."""
    found = np.empty((len(rows), stop - start), np.uint8)
    order = np.argsort(rows)
    for at in range(0, len(rows), ROWS):
        part = order[at : at + ROWS]
        found[part] = flat[rows[part], start:stop]
        release_pages(flat)
    return found
