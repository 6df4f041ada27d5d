"""Decoded arrays on disk: written block by block, whole or not at all, and memory-mapped from then on."""

import glob
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastconv.data.dataset import ImageData
from fastconv.data.sources.levels import Levels
from fastconv.system.files import locked, unwritable
from fastconv.system.memory import release_pages

ARRAYS_FORMAT = 1
# Bytes of the images that are in memory at a time while arrays are written.
BLOCK_BYTES = 8 * 2**20


class ArraysWriter:
    """Writes the splits of a data set to `aside`, which `new_arrays` moves to `folder` when all are there.

    Its methods raise InputError if they cannot.
    """

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside
        self._digests: dict[str, str] = {}

    def write(
        self, split: str, images: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None
    ) -> NDArray[np.uint64]:
        """Write a split, `train` or `test`, and the hash of each of its images; return these hashes.

        Args:
            images: uint8 [N, H, W, C]; may be a memory map, of which only a block is in memory at a time.
            labels: whole numbers [N].
            rows: int64 [M], the images to write, in this order; None for all as they are.
        """
        labels = np.ascontiguousarray(labels if rows is None else labels[rows], np.int64)
        digest, hashes = hashlib.sha256(), np.empty(len(labels), np.uint64)
        with writing(self.folder), (self.aside / f"{split}-images.npy").open("wb") as file:
            shape = (len(labels), *images.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start, block in _blocks(images, rows):
                file.write(block.data)
                digest.update(block.data)
                hashes[start : start + len(block)] = content_hashes(block)
        digest.update(labels.data)
        with writing(self.folder):
            np.save(self.aside / f"{split}-labels.npy", labels)
            np.save(self.aside / f"{split}-hashes.npy", hashes)
        self._digests[split] = digest.hexdigest()
        return hashes

    def finish(self, classes: Sequence[str], note: str = "", levels: Levels | None = None) -> None:
        """Write what makes the arrays complete: the names of the classes, a note about images left out, and how values
        of more than eight bits became bytes."""
        meta = {"format": ARRAYS_FORMAT, "classes": list(classes), "digest": self._digests, "note": note}
        if levels is not None:
            meta["levels"] = levels.as_dict()
        with writing(self.folder):
            (self.aside / "meta.json").write_text(json.dumps(meta, indent=1))


@contextmanager
def new_arrays(folder: Path) -> Iterator[ArraysWriter]:
    """Write the arrays of a data set to a folder that appears, or is replaced, only when they are complete.

    Processes that need the same arrays take turns: look again with `read_arrays` for those of another one. Without
    `ArraysWriter.finish`, nothing is kept. Raises InputError if the folder cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent, f"{folder.name}.write"):
        for leftover in folder.parent.glob(f"{glob.escape(folder.name)}.*.part"):  # of writers that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        aside = folder.with_name(f"{folder.name}.{secrets.token_hex(6)}.part")
        try:
            with writing(folder):
                aside.mkdir()
            yield ArraysWriter(folder, aside)
            if (aside / "meta.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
                with writing(folder):
                    aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise InputError, saying that `path` cannot be written, where writing fails."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def read_arrays(name: str, folder: Path) -> tuple[ImageData, ImageData] | None:
    """Memory-map the training and test arrays; None if they are absent, in another format or truncated."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format"] != ARRAYS_FORMAT:
            return None
        arrays = {
            split: tuple(np.load(folder / f"{split}-{part}.npy", mmap_mode="r") for part in ("images", "labels"))
            for split in ("train", "test")
        }
        classes, levels = tuple(meta["classes"]), Levels.from_dict(meta.get("levels"))
        train, test = (
            ImageData(name, images, labels, classes, meta["digest"][split], meta.get("note", ""), levels=levels)
            for split, (images, labels) in arrays.items()
        )
        return train, test
    except (OSError, ValueError, KeyError, TypeError):
        return None


def content_hashes(images: np.ndarray) -> NDArray[np.uint64]:
    """The first 8 bytes of the sha256 of each image's pixels, little-endian, uint64 [N], for images uint8 [N, H, W, C].

    The chance that any two of a million different images share a hash is 1 in 37 million.
    """
    found = b"".join(hashlib.sha256(image.data).digest()[:8] for _, block in _blocks(images, None) for image in block)
    return np.frombuffer(found, "<u8").astype(np.uint64)


def _blocks(images: np.ndarray, rows: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position, images uint8 [B, H, W, C]) of `images[rows]`, a block of limited size at a time."""
    count = len(images) if rows is None else len(rows)
    step = max(1, BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, count, step):
        part = slice(start, start + step) if rows is None else rows[start : start + step]
        yield start, np.ascontiguousarray(images[part], np.uint8)
        release_pages(images)
