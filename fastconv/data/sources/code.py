"""Images from a user's own function, `dataset._target_`."""

import copy
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.sources.base import Arrays, Source
from fastconv.data.sources.labels import require_names
from fastconv.system.errors import InputError, message_of, reason
from fastconv.system.targets import import_target, source_digest

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset


def stamp_of(dataset: "Dataset") -> list[object]:
    """A stamp that changes with the user's function: its path, its arguments and its source file."""
    target = _path(dataset)
    return [target, dict(dataset.arguments), source_digest(target)]


def call(dataset: "Dataset") -> Source | Arrays:
    """Call the user's function with `dataset.arguments`.

    It returns a `Source`, or train images uint8 [N, H, W, C], train labels [N], test images, test labels and class
    names. Raises InputError for anything else, or if it fails.
    """
    path = _path(dataset)
    function = import_target(path)
    try:
        made = function(**copy.deepcopy(dataset.arguments))
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"dataset._target_={path} failed: {reason(error)}") from error
    return made if isinstance(made, Source) else _checked(made, path)


def _path(dataset: "Dataset") -> str:
    if not dataset._target_:
        raise InputError("dataset._target_ is not set: give a function of yours, dataset._target_=package.function")
    return dataset._target_


def _checked(made: object, path: str) -> Arrays:
    def require(ok: bool, rule: str) -> None:
        if not ok:
            raise InputError(f"dataset._target_={path} returned something else than images and labels: {rule}")

    if not isinstance(made, tuple | list) or len(made) != 5:
        raise InputError(
            f"dataset._target_={path} must return (train images, train labels, test images, test labels, class names)"
        )
    try:
        classes = tuple(map(str, made[4]))
        train_images, train_labels, test_images, test_labels = map(np.asarray, made[:4])
    except (TypeError, ValueError) as error:  # images of several sizes, tensors of a GPU, or no list
        raise InputError(
            f"dataset._target_={path} returned values that do not make arrays and a list of names:"
            f" {message_of(error, 200)}"
        ) from error
    require(len(classes) >= 2, f"a classifier needs two or more classes, there are {len(classes)}")
    require_names(f"dataset._target_={path}", classes)
    for part, images, labels in (("train", train_images, train_labels), ("test", test_images, test_labels)):
        shape = "x".join(map(str, images.shape))
        require(
            images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3),
            f"{part} images must be uint8, N x H x W x 1 or 3, and are {images.dtype}, {shape}",
        )
        require(
            np.issubdtype(labels.dtype, np.integer) and labels.shape == images.shape[:1],
            f"there must be a whole number as label for each of {len(images)} {part} images",
        )
        require(len(images) > 0, f"there are no {part} images")
        require(
            labels.min() >= 0 and labels.max() < len(classes),
            f"{part} labels must lie in [0, {len(classes)}), and go from {labels.min()} to {labels.max()}",
        )
    require(train_images.shape[1:] == test_images.shape[1:], "train and test images must have one shape")
    return train_images, train_labels.astype(np.int64), test_images, test_labels.astype(np.int64), classes
