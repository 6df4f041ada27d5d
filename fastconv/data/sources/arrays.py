"""A user's own images as numpy arrays in a .npz file."""

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastconv.data.sources.array_keys import find_keys
from fastconv.data.sources.array_values import as_images, as_labels, shape_of
from fastconv.data.sources.base import Found, Source, source
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.labels import NO_LABEL, class_names, class_notes
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Names of arrays whose first stamps did not have them.
FIRST_KEYS = [("images", "labels"), ("test_images", "test_labels")]


@source("arrays")
def arrays(dataset: "Dataset", data: Path) -> Source:
    """A .npz with `images`, uint8 [N, H, W] or [N, H, W, C], and `labels` [N], numbers or names. It may have
    `test_images` and `test_labels` too. Other names that are in use are known as well (`array_keys`)."""
    path = Path(dataset.root or "")
    if not dataset.root or not path.is_file():
        raise InputError(f"dataset.root={dataset.root} is no file: give a .npz that has arrays images and labels")
    try:
        file = np.load(path, allow_pickle=False)  # a pickle could run any code
    except Exception as error:  # numpy and zipfile each raise their own
        raise InputError(f"cannot read {path}: give a .npz that has arrays images and labels") from error
    if isinstance(file, np.ndarray):
        raise InputError(f"{path} is a single array: give a .npz that has arrays images and labels")
    with file:
        keys, unused = find_keys(path, file.files)
        splits = []
        for images_key, labels_key in keys:
            images, labels = _read(file, images_key, path), _read(file, labels_key, path)
            if not images.ndim or not labels.ndim or len(images) != len(labels):
                raise InputError(
                    f"{path} needs as many {labels_key} as {images_key}: they are {shape_of(labels)} and"
                    f" {shape_of(images)}"
                )
            splits.append(
                (as_images(images, f"{path} has {images_key}"), as_labels(labels, f"{path} has {labels_key}"))
            )
    names = class_names((label for _, labels in splits for label in labels if label is not None), path)
    classes = list(dict.fromkeys(names.values()))
    number = {label: classes.index(name) for label, name in names.items()}
    notes = [f"{path} has arrays that are not used: {', '.join(unused[:8])}"] if unused else []

    def find() -> Found:
        samples: list[list[Sample]] = [[], []]
        unreadable = []
        for before, (images, labels), found in zip(("", "test "), splits, samples, strict=False):
            for at, (image, label) in enumerate(zip(images, labels, strict=True)):
                if label is None:
                    unreadable.append((f"{before}image {at}", NO_LABEL))
                else:
                    found.append(Sample(f"{before}image {at}", number[label], partial(_as_image, image)))
        return Found.of(classes, samples[: len(splits)], unreadable)

    told = [] if keys == FIRST_KEYS[: len(keys)] else [keys]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source([classes, digest, *told], find, (*notes, *class_notes(classes)))


def _read(file: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        array: np.ndarray = file[key]
        return array
    except Exception as error:  # numpy and zipfile each raise their own
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise InputError(
                f"{path} has {key} of Python objects, which are never unpickled: store numbers or texts, such as"
                f" np.stack({key}) or {key}.astype(str)"
            ) from error
        raise InputError(f"cannot read {key} of {path}: {' '.join(str(error).split())}") from error


def _as_image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else np.ascontiguousarray(array))
