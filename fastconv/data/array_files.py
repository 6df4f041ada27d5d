"""Decoded arrays on disk: written block by block, whole or not at all, and memory-mapped from then on."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastconv.data.dataset import ImageData
from fastconv.data.hashes import blocks, content_hashes
from fastconv.data.sources.levels import Levels
from fastconv.system.errors import InputError
from fastconv.system.files import locked, unwritable
from fastconv.system.json_text import as_json, from_json
from fastconv.system.names import valid_unicode

ARRAYS_FORMAT = 1
# Random bytes in the name of a folder that is being written, two hex digits each.
TOKEN_BYTES = 6
UNFINISHED = re.compile(rf"(.+)\.[0-9a-f]{{{2 * TOKEN_BYTES}}}\.part")


class ArraysWriter:
    """Writes the splits of a data set to `aside`, which `new_arrays` moves to `folder` when all are there.

    Its methods raise InputError if they cannot.
    """

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside
        self._digests: dict[str, str] = {}

    def write(
        self,
        split: str,
        images: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray | None = None,
        hashes: NDArray[np.uint64] | None = None,
    ) -> None:
        """Write a split, `train` or `test`, and the hash of each of its images.

        Args:
            images: uint8 [N, H, W, C]; may be a memory map, of which only a block is in memory at a time.
            labels: whole numbers [N].
            rows: int64 [M], the images to write, in this order; None for all as they are.
            hashes: uint64 [M], of the written images, where they are known already (`content_hashes`).
        """
        labels = np.ascontiguousarray(labels if rows is None else labels[rows], np.int64)
        digest, known = hashlib.sha256(), hashes is not None
        hashes = np.empty(len(labels), np.uint64) if hashes is None else hashes
        with writing(self.folder), (self.aside / f"{split}-images.npy").open("wb") as file:
            shape = (len(labels), *images.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start, block in blocks(images, rows):
                file.write(block.data)
                digest.update(block.data)
                if not known:
                    hashes[start : start + len(block)] = content_hashes(block)
        digest.update(labels.data)
        with writing(self.folder):
            np.save(self.aside / f"{split}-labels.npy", labels)
            np.save(self.aside / f"{split}-hashes.npy", hashes)
        self._digests[split] = digest.hexdigest()

    def finish(
        self, classes: Sequence[str], note: str = "", levels: Levels | None = None, resize: str = "crop"
    ) -> None:
        """Write what makes the arrays complete: the names of the classes, a note about images left out, how values of
        more than eight bits became bytes, and how images became square."""
        names = [valid_unicode(name) for name in classes]
        meta = {"format": ARRAYS_FORMAT, "classes": names, "digest": self._digests, "note": note}
        if levels is not None:
            meta["levels"] = levels.as_dict()
        if resize != "crop":
            meta["resize"] = resize
        with writing(self.folder):
            (self.aside / "meta.json").write_text(as_json(meta, indent=1), "utf-8")


@contextmanager
def new_arrays(folder: Path) -> Iterator[ArraysWriter]:
    """Write the arrays of a data set to a folder that appears, or is replaced, only when they are complete.

    Processes that need the same arrays take turns: look again with `read_arrays` for those of another one. Without
    `ArraysWriter.finish`, nothing is kept. Raises InputError if the folder cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent, f"{folder.name}.write"):
        _remove_leftovers(folder)
        aside = folder.with_name(f"{folder.name}.{secrets.token_hex(TOKEN_BYTES)}.part")
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


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed writers of a folder, whose lock the caller holds, have left, and those of others beside it:
    other images, or the same with other settings, are other arrays."""
    for path in folder.parent.glob("*.part"):
        if found := UNFINISHED.fullmatch(path.name):
            is_ours = found[1] == folder.name
            lock: AbstractContextManager[bool] = (
                nullcontext(True) if is_ours else locked(folder.parent, f"{found[1]}.write", wait=False)
            )
            with suppress(InputError), lock as nobody_writes:  # or it is another user's
                if nobody_writes:
                    shutil.rmtree(path, ignore_errors=True)


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
        meta = from_json((folder / "meta.json").read_text("utf-8"))
        if meta["format"] != ARRAYS_FORMAT:
            return None
        arrays = {
            split: tuple(np.load(folder / f"{split}-{part}.npy", mmap_mode="r") for part in ("images", "labels"))
            for split in ("train", "test")
        }
        classes, levels = tuple(meta["classes"]), Levels.from_dict(meta.get("levels"))
        note, resize = meta.get("note", ""), meta.get("resize", "crop")
        train, test = (
            ImageData(name, images, labels, classes, meta["digest"][split], note, levels=levels, resize=resize)
            for split, (images, labels) in arrays.items()
        )
        return train, test
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # a file of no bytes is an EOFError for numpy
        return None
