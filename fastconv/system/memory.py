"""Memory of mapped files: pages that were read count as memory of the process until they are given back."""

import mmap
from typing import Any

import numpy as np


def release_pages(array: np.ndarray) -> None:
    """Give back the pages of a file that `array` maps read-only. They stay in the system's cache, so that reading them
    again costs little. Does nothing for other arrays, and on systems that cannot."""
    base: Any = array
    if hasattr(base, "release_pages"):
        base.release_pages()
        return
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode != "r":  # changes of a private mapping would be lost
            return
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
