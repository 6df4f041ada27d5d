"""Hashes that identify images by their content, whatever their files are called and wherever they lie."""

import dataclasses
import hashlib
import io
from contextlib import suppress
from pathlib import Path

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically


def content_hashes(images: np.ndarray) -> np.ndarray:
    """The first 8 bytes of the sha256 of each image's pixels, uint64 [N], for images uint8 [N, H, W, C].

    The chance that any two of a million different images share a hash is 1 in 37 million.
    """
    digests = (hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images)
    return np.frombuffer(b"".join(digests), "<u8")


def with_hashes(folder: Path, splits: tuple[ImageData, ImageData]) -> tuple[ImageData, ImageData]:
    """Add the hashes to a training and a test split. They are computed once, and kept beside the arrays in `folder`."""
    train, test = (
        dataclasses.replace(data, hashes=_kept(folder / f"{split}-hashes.npy", data.images))
        for split, data in zip(("train", "test"), splits, strict=True)
    )
    return train, test


def _kept(path: Path, images: np.ndarray) -> np.ndarray:
    with suppress(OSError, ValueError, EOFError):
        stored: np.ndarray = np.load(path, allow_pickle=False)
        if stored.dtype == np.uint64 and stored.shape == images.shape[:1]:
            return stored
    hashes, content = content_hashes(images), io.BytesIO()
    np.save(content, hashes)
    with suppress(InputError):  # where they cannot be kept, they are computed each time
        write_atomically(path, content.getvalue())
    return hashes
