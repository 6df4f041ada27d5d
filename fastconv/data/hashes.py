"""Hashes that identify images by their content, whatever their files are called and wherever they lie."""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastconv.data.dataset import ImageData
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically
from fastconv.system.memory import release_pages

# Bytes of the images of a memory map that are in memory at a time.
BLOCK_BYTES = 8 * 2**20


def content_hashes(images: np.ndarray) -> NDArray[np.uint64]:
    """The first 8 bytes of the sha256 of each image's pixels, little-endian, uint64 [N], for images uint8 [N, H, W, C].

    The chance that any two of a million different images share a hash is 1 in 37 million.
    """
    found = np.empty(len(images), np.uint64)
    for start, block in blocks(images):
        digests = b"".join(hashlib.sha256(image.data).digest()[:8] for image in block)
        found[start : start + len(block)] = np.frombuffer(digests, "<u8")
    return found


def images_digest(parts: Sequence[ImageData]) -> str | None:
    """The first 16 hex digits of a sha256 of images and their labels, in any order and however they are parted.

    None for those of built-in data sets, which have no hashes and never change.
    """
    rows = [
        np.stack([data.hashes, np.asarray(data.labels, np.uint64)], axis=1) for data in parts if data.hashes is not None
    ]
    if not rows:
        return None
    found = np.concatenate(rows)
    ordered = found[np.lexsort(found.T)].astype("<u8")
    return hashlib.sha256(ordered.tobytes()).hexdigest()[:16]


def blocks(images: np.ndarray, rows: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position, images uint8 [B, H, W, C]) of `images[rows]`, a block of limited size at a time."""
    count = len(images) if rows is None else len(rows)
    step = max(1, BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, count, step):
        part = slice(start, start + step) if rows is None else rows[start : start + step]
        yield start, np.ascontiguousarray(images[part], np.uint8)
        release_pages(images)


def with_hashes(folder: Path, splits: tuple[ImageData, ImageData]) -> tuple[ImageData, ImageData]:
    """Add the hashes to a training and a test split: those that were written beside the arrays in `folder`.

    Earlier versions wrote none. Then they are computed, and kept there.
    """
    train, test = (
        dataclasses.replace(data, hashes=_kept(folder / f"{split}-hashes.npy", data.images))
        for split, data in zip(("train", "test"), splits, strict=True)
    )
    return train, test


def _kept(path: Path, images: np.ndarray) -> NDArray[np.uint64]:
    with suppress(OSError, ValueError, EOFError):
        stored: NDArray[np.uint64] = np.load(path, allow_pickle=False)
        if stored.dtype == np.uint64 and stored.shape == images.shape[:1]:
            return stored
    hashes, content = content_hashes(images), io.BytesIO()
    np.save(content, hashes)
    with suppress(InputError):  # where they cannot be kept, they are computed each time
        write_atomically(path, content.getvalue())
    return hashes
