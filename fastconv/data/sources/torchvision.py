"""Classification data sets of torchvision."""

import inspect
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from fastconv.data.sources.base import Found, Source, source
from fastconv.data.sources.decode import Sample
from fastconv.system.downloads import limited_waiting
from fastconv.system.errors import InputError, message_of, nearest
from fastconv.system.wording import counted

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Sets whose splits do not follow from their arguments, or are not those to use. LFW's test split has other people, and
# CLEVR's no labels.
SPLITS: dict[str, list[dict[str, Any]]] = {
    "EMNIST": [{"split": "balanced", "train": True}, {"split": "balanced", "train": False}],
    "LFWPeople": [{"split": "10fold"}],
    "Places365": [{"split": "train-standard"}, {"split": "val"}],
    "CLEVRClassification": [{"split": "train"}, {"split": "val"}],
}
# Sets whose class names were numbers once.
RENAMED = ("Caltech101", "Caltech256", "INaturalist", "LFWPeople", "Omniglot")
# What cannot be learned, by the names of classes or of their bases.
UNUSABLE = {
    "CocoDetection CocoCaptions Kitti VOCDetection WIDERFace": "its targets are boxes or sentences",
    "VOCSegmentation Cityscapes SBDataset": "its targets are images",
    "Flickr8k Flickr30k SBU": "its targets are sentences",
    "Kinetics HMDB51 UCF101 MovingMNIST": "it holds videos",
    "FlowDataset StereoMatchingDataset": "its targets are fields of numbers",
    "CelebA": "each image has 40 attributes",
    "LFWPairs PhotoTour": "it holds pairs of images",
    "FakeData": "it is noise",
    "VisionDataset": "it is an interface",
    "DatasetFolder ImageFolder": "use dataset=image_folder with dataset.root",
}


@source("torchvision")
def torchvision(dataset: "Dataset", data: Path) -> Source:
    """A classification data set of torchvision, by the name of its class; its files keep torchvision's layout."""
    name = dataset.name

    def find() -> Found:
        opened = _open_torchvision(name, data)
        labels = [_labels(each, name) for each in opened]
        notes = []
        if len(opened) > 1 and all(label is None for label in labels[1]):
            notes.append(f"the test split of {name} has no labels and is not used")
            opened, labels = opened[:1], labels[:1]
        seen = sorted({label for split in labels for label in split if label is not None})
        if any(None in split for split in labels) or not seen or seen[0] < 0:
            raise InputError(
                f"torchvision's {name} has images without a label in this split: it cannot be used as it is"
            )
        names = _names(opened[0], seen[-1] + 1)
        number = {label: at for at, label in enumerate(seen)} if len(seen) > 1 else {seen[0]: 0}
        if absent := [each for label, each in enumerate(names) if label not in number]:
            notes.append(f"no images of {counted(len(absent), 'class')} of {name} are here, such as {absent[0]}")
        turn = name == "EMNIST"
        samples = [
            [Sample(f"{name} {at}", number[label], partial(_image, split, at, turn)) for at, label in enumerate(each)
             if label is not None]
            for split, each in zip(opened, labels, strict=True)
        ]  # fmt: skip
        return Found.of([names[label] for label in seen], samples, notes=notes)

    more = [SPLITS.get(name, []), name in RENAMED]
    return Source([name, *(more if any(more) else [])], find)


class Indexed(Protocol):
    """A data set of torchvision: (image, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> "tuple[Image.Image, Any]": ...


def _open_torchvision(name: str, data: Path) -> list[Indexed]:
    """Open the training and test split of a data set, or all of it if it has no splits."""
    from torchvision import datasets

    known = [each for each in datasets.__all__ if isinstance(getattr(datasets, each), type)]
    if name not in known:
        raise InputError(f"dataset.name={name} is no data set of torchvision{nearest(name, known)}")
    kind = getattr(datasets, name)
    bases = {base.__name__ for base in kind.__mro__ if base.__name__ in ("FlowDataset", "StereoMatchingDataset")}
    for names, why in UNUSABLE.items():
        if {name, *bases} & set(names.split()):
            raise InputError(f"torchvision's {name} is not for classification: {why}")
    takes = _arguments(kind)
    splits: list[dict[str, Any]] = [{}]
    if name in SPLITS:
        splits = SPLITS[name]
    elif "train" in takes:
        splits = [{"train": True}, {"train": False}]
    elif "split" in takes:
        code = inspect.getsource(kind)
        found = [next((each for each in options if f'"{each}"' in code), None)
                 for options in (("trainval", "train"), ("test", "val", "valid"))]  # fmt: skip
        splits = [{"split": each} for each in found if each] or [{}]
    try:
        try:  # some that are on the disk refuse to be downloaded
            return [kind(data, **each, **({"download": False} if "download" in takes else {})) for each in splits]
        except Exception:  # each data set raises its own
            if "download" not in takes:
                raise
            with limited_waiting():
                return [kind(data, **each, download=True) for each in splits]
    except Exception as error:
        line = message_of(error, 300).rstrip(".")
        raise InputError(f"torchvision cannot open {name} in {data}: {line}. Put its files there") from error


def _arguments(kind: type) -> set[str]:
    """The arguments that a class takes, those that it hands on to its bases included."""
    takes: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        takes |= {each.name for each in parameters}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return takes


def _labels(split: Indexed, name: str) -> list[int | None]:
    """The labels of a data set, None where there is none. Images are decoded only if it has no list of labels."""
    found = next((getattr(split, key) for key in ("targets", "labels", "_labels", "y") if hasattr(split, key)), None)
    if found is None:
        pairs = next((getattr(split, key) for key in ("_samples", "samples") if hasattr(split, key)), None)
        found = [pair[1] for pair in pairs] if pairs is not None else None
    if found is None and name == "INaturalist":
        found = [pair[0] for pair in split.index]  # type: ignore[attr-defined]
    if found is None or len(found) != len(split):
        found = [split[at][1] for at in range(len(split))]
    values = [
        each[0] if isinstance(each, Sequence | np.ndarray) and name == "QMNIST" else each for each in _plain(found)
    ]
    if not all(value is None or (isinstance(value, int | float) and float(value).is_integer()) for value in values):
        wrong = next(value for value in values if value is not None and not isinstance(value, int))
        raise InputError(
            f"torchvision's {name} is not for classification: its targets are not class numbers, but"
            f" {' '.join(str(wrong).split())[:60]}"
        )
    return [None if value is None or value == -1 else int(value) for value in values]


def _plain(values: Any) -> list[Any]:
    """Labels of a tensor, an array or a list, as plain values."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.tolist() if hasattr(value, "tolist") else value for value in listed]


def _names(split: Indexed, count: int) -> list[str]:
    """Names of the classes, at least `count`; their numbers if the set has no names. To a name of several classes, as
    ImageNet's crane, their numbers are added."""
    names = next((list(getattr(split, key)) for key in ("classes", "categories", "class_to_idx", "all_categories",
                  "_characters") if getattr(split, key, None)), [])  # fmt: skip
    if len(names) < count:
        names = list(range(count))
    texts = [", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in names]
    counts = Counter(texts)
    return [f"{text} ({at})" if counts[text] > 1 else text for at, text in enumerate(texts)]


def _image(split: Indexed, at: int, turn: bool) -> Image.Image:
    """An image; `turn` swaps its axes, as EMNIST's files need it (github.com/pytorch/vision/issues/8783)."""
    image = split[at][0]
    return image.transpose(Image.Transpose.TRANSPOSE) if turn else image
