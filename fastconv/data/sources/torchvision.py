"""Classification data sets of torchvision."""

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastconv.data.sources.base import Found, Source, source
from fastconv.data.sources.decode import Sample
from fastconv.system.errors import InputError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from fastconv.data.configs import Dataset


@source("torchvision")
def torchvision(dataset: "Dataset", data: Path) -> Source:
    """A classification data set of torchvision, by the name of its class; its files keep torchvision's layout."""

    def find() -> Found:
        opened = _open_torchvision(dataset.name, data)
        splits = [_indexed(each, dataset.name) for each in opened]
        count = 1 + max(sample.label for samples in splits for sample in samples)
        classes = getattr(opened[0], "classes", None) or range(count)
        names = tuple(", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in classes)
        return Found.of(names, splits)

    return Source([dataset.name], find)


class Indexed(Protocol):
    """A data set of torchvision: (image, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> "tuple[Image, Any]": ...


def _open_torchvision(name: str, data: Path) -> list[Indexed]:
    """Open the training and test split of a data set, or all of it if it has no splits."""
    from torchvision import datasets

    known = [each for each in datasets.__all__ if isinstance(getattr(datasets, each), type)]
    if name not in known:
        raise InputError(f"dataset.name={name} is no data set of torchvision{nearest(name, known)}")
    kind = getattr(datasets, name)
    takes, code = inspect.signature(kind).parameters, inspect.getsource(kind)
    splits: list[dict[str, Any]] = [{}]
    if "train" in takes:
        splits = [{"train": True}, {"train": False}]
    elif "split" in takes:
        names = [next((each for each in options if f'"{each}"' in code), None)
                 for options in (("trainval", "train"), ("test", "val", "valid"))]  # fmt: skip
        splits = [{"split": each} for each in names if each]
    more: dict[str, Any] = {"download": True} if "download" in takes else {}
    if name == "EMNIST":
        more["split"] = "balanced"
    try:
        return [kind(data, **each, **more) for each in splits]
    except Exception as error:  # each data set raises its own
        line = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"torchvision cannot open {name} in {data}: {line}. Put its files there") from error


def _indexed(split: Indexed, name: str) -> list[Sample]:
    """The samples of an indexed data set. If it has a list of labels, they are read without decoding its images."""
    labels = next((getattr(split, key) for key in ("targets", "labels", "_labels", "y") if hasattr(split, key)), None)
    if labels is None or len(labels) != len(split):
        labels = [split[at][1] for at in range(len(split))]
    labels = [int(label) for label in np.asarray(labels).tolist()]
    if min(labels) < 0:
        raise InputError(f"torchvision's {name} has images without a label in this split: it cannot be used as it is")
    return [Sample(f"{name} {at}", label, partial(_image, split, at)) for at, label in enumerate(labels)]


def _image(split: Indexed, at: int) -> "Image":
    return split[at][0]
