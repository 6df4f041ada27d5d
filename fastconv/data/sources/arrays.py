"""A user's own images as numpy arrays in a .npz file."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastconv.data.sources.base import Found, Source, natural, source
from fastconv.data.sources.decode import Sample
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


@source("arrays")
def arrays(dataset: "Dataset", data: Path) -> Source:
    """A .npz with `images`, uint8 [N, H, W] or [N, H, W, C], and `labels` [N], numbers or names. It may have
    `test_images` and `test_labels` too."""
    path = Path(dataset.root or "")
    if not dataset.root or not path.is_file():
        raise InputError(f"dataset.root={dataset.root} is no file: give a .npz that has arrays images and labels")
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run any code
            stored = {key: file[key] for key in file.files}
    except Exception as error:  # numpy and zipfile each raise their own
        raise InputError(f"cannot read {path}: give a .npz that has arrays images and labels") from error
    splits = []
    for before in ("", "test_") if "test_images" in stored else ("",):
        images, labels = (stored.get(f"{before}{key}") for key in ("images", "labels"))
        if images is None or labels is None or labels.ndim != 1 or len(images) != len(labels):
            raise InputError(f"{path} needs as many {before}labels as {before}images")
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,), (4,)):
            shape = "x".join(map(str, images.shape))
            raise InputError(
                f"{path} has {before}images of {images.dtype}, {shape}: give uint8, N x H x W (x 1, 3 or 4)"
            )
        splits.append((images, [str(label) for label in labels.tolist()]))
    classes = sorted({label for _, labels in splits for label in labels}, key=natural)
    if len(classes) < 2:
        raise InputError(f"{path} has labels of {len(classes)} classes: a classifier needs two or more")

    def find() -> Found:
        samples = [
            [
                Sample(f"{before}image {at}", classes.index(label), partial(_as_image, image))
                for at, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
            for before, (images, labels) in zip(("", "test "), splits, strict=False)
        ]
        return Found.of(classes, samples)

    return Source([classes, hashlib.sha256(path.read_bytes()).hexdigest()], find)


def _as_image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
