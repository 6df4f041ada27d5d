"""Images at some rows of arrays, read when they are needed: a copy of a large memory map would fill the memory."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastconv.system.memory import release_pages

# Images of fewer bytes are copied: they fit, and lie together. Of larger ones, pages that were read are given back.
MAPPED_BYTES = 2**29


class ImageRows:
    """The same as `np.concatenate(arrays)[rows]`, without a copy of all arrays.

    Args:
        arrays: uint8 [N, H, W, C], alike but for N; may be memory maps.
        rows: int64 [M].
    """

    def __init__(self, arrays: Sequence[np.ndarray], rows: NDArray[np.int64]) -> None:
        self.arrays, self.rows = arrays, rows
        self.shape, self.dtype, self.ndim = (len(rows), *arrays[0].shape[1:]), arrays[0].dtype, arrays[0].ndim
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * self.dtype.itemsize
        self._starts = np.cumsum([0, *map(len, arrays)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if first is Ellipsis:
            everything: np.ndarray = np.asarray(self)[index]
            return everything
        rows = self.rows[first]
        if rows.ndim == 0:
            at = int(np.searchsorted(self._starts, rows, side="right")) - 1
            found: np.ndarray = self.arrays[at][rows - self._starts[at]]
            return found[rest] if rest else found
        if len(self.arrays) == 1:
            found = self.arrays[0][rows]
        else:
            found = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
            for start, array in zip(self._starts, self.arrays, strict=False):
                inside = (rows >= start) & (rows < start + len(array))
                found[inside] = array[rows[inside] - start]
        return found[(slice(None), *rest)] if rest else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def release_pages(self) -> None:
        """Give back the pages of the files that the arrays map (`system.memory`)."""
        for array in self.arrays:
            release_pages(array)


def choose_rows(arrays: Sequence[np.ndarray], rows: NDArray[np.int64]) -> np.ndarray:
    """The images at some rows of arrays that are put one behind the other: copied if they are small."""
    first: Any = arrays[0]
    if len(arrays) == 1 and isinstance(first, ImageRows):
        arrays, rows = first.arrays, first.rows[rows]
    chosen = ImageRows(arrays, rows)
    # For all that reads images by rows, the one is as good as the other.
    return chosen[:] if chosen.nbytes <= MAPPED_BYTES else cast(np.ndarray, chosen)
