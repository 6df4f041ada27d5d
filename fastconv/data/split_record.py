"""The images of a run by their content: a run keeps in `splits.json` which it trained on, held out and tested on."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.data.configs import RESIZES
from fastconv.data.splits import Splits
from fastconv.system.errors import InputError
from fastconv.system.files import read_file, write_atomically
from fastconv.system.json_text import as_json

FILE = "splits.json"
FORMAT = 1
# Bytes of a hash and of a label in the file.
HASH, LABEL = "<u8", "<u4"
# Bytes of the largest file that is read: 16 for each image, in base64.
MOST_BYTES = 2**29


@dataclass(frozen=True)
class RecordedImages:
    """A split of a run: the digest of its arrays, and in their order hashes uint64 [N] and labels int64 [N]."""

    digest: str
    hashes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class SplitRecord:
    """The splits of a run, its class names, the shape [H, W, C] of its images, and how they became square."""

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    train: RecordedImages
    holdout: RecordedImages
    test: RecordedImages
    resize: str = field(default="crop", kw_only=True)

    @property
    def parts(self) -> tuple[RecordedImages, RecordedImages, RecordedImages]:
        """The training images, the held-out ones and the test images."""
        return self.train, self.holdout, self.test

    @classmethod
    def of(cls, splits: Splits) -> "SplitRecord | None":
        """The record of a user's images; None for a built-in data set, whose images never change."""
        parts = []
        for data in (splits.train, splits.holdout, splits.test):
            if data.hashes is None:
                return None
            parts.append(RecordedImages(data.digest, data.hashes, np.asarray(data.labels, np.int64)))
        return cls(splits.train.classes, splits.train.images.shape[1:], *parts, resize=splits.train.resize)

    def write(self, run: Path) -> None:
        """Write it to a run's folder. Raises InputError if that is not possible."""
        content: dict[str, Any] = {"format": FORMAT, "classes": list(self.classes), "shape": list(self.shape)}
        content["resize"] = self.resize
        for name, part in zip(("train", "holdout", "test"), self.parts, strict=True):
            content[name] = {
                "images": len(part.hashes),
                "digest": part.digest,
                "hashes": _as_text(part.hashes, HASH),
                "labels": _as_text(part.labels, LABEL),
            }
        write_atomically(run / FILE, as_json(content, indent=1).encode())

    @classmethod
    def read(cls, run: Path) -> "SplitRecord | None":
        """The record of a run; None for a run without one. Raises InputError for a file that is damaged."""
        path = run / FILE
        try:
            content = json.loads(read_file(path, MOST_BYTES))
            if content["format"] != FORMAT:
                found = str(content["format"])[:40]
                raise InputError(f"{path} has format {found}, this fastconv reads format {FORMAT}")
            classes, shape = tuple(map(str, content["classes"])), tuple(content["shape"])
            if len(set(classes)) < len(classes):
                raise ValueError("these are no classes")
            parts = [_read_part(content[name], len(classes)) for name in ("train", "holdout", "test")]
            resize = content.get("resize", "crop")  # the only way of earlier versions
            if len(shape) != 3 or any(type(side) is not int or side < 1 for side in shape) or resize not in RESIZES:
                raise ValueError("this is no shape of images")
            return cls(classes, shape, *parts, resize=resize)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path} is damaged: it says which images the run trained on. Restore it, or train anew"
            ) from error


def _as_text(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _read_part(content: dict[str, Any], classes: int) -> RecordedImages:
    hashes, labels = (
        np.frombuffer(base64.b64decode(content[key], validate=True), kind).astype(target)
        for key, kind, target in (("hashes", HASH, np.uint64), ("labels", LABEL, np.int64))
    )
    if len(hashes) != len(labels) or len(hashes) != content["images"] or (len(labels) and labels.max() >= classes):
        raise ValueError("the numbers of images differ")
    return RecordedImages(str(content["digest"]), hashes, labels)
