"""A user's own images in WebDataset tars, on disk or behind URLs. The tars are never unpacked to disk."""

import glob
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv.data.sources.base import Found, Source, natural, source, stamp
from fastconv.data.sources.decode import Sample
from fastconv.data.sources.formats import ENDINGS
from fastconv.data.sources.tar_files import tar_files
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

MOST_CLASSES = 99_999


@source("webdataset")
def webdataset(dataset: "Dataset", data: Path) -> Source:
    """Tar shards of images (jpg, png, webp, ...), each with a label as .cls or in a .json, on disk or behind URLs."""
    if not dataset.train:
        raise InputError("dataset.train is not set: name the tars to train on, such as dataset.train=train-*.tar")
    keys = ["train", "test"] if dataset.test else ["train"]
    splits = [list(_tars(getattr(dataset, key), f"dataset.{key}")) for key in keys]

    def find() -> Found:
        read = [[sample for url in urls for sample in _members(url)] for urls in splits]
        labels = {label for split in read for _, label, _ in split}
        if len(labels) < 2:
            raise InputError(f"{splits[0][0]} has images of {len(labels)} classes: a classifier needs two or more")
        numbers = [label for label in labels if isinstance(label, int)]
        if len(numbers) == len(labels):
            if wrong := [label for label in numbers if not 0 <= label <= MOST_CLASSES]:
                raise InputError(f"{splits[0][0]} has the label {wrong[0]}: number the classes from 0 on")
            names = [str(label) for label in range(max(numbers) + 1)]
        else:
            names = sorted({str(label) for label in labels}, key=natural)
        at = {name: label for label, name in enumerate(names)}
        samples = [
            [Sample(name, at[str(label)], partial(bytes, content)) for name, label, content in split] for split in read
        ]
        return Found.of(names, samples)

    return Source(
        [[[url, *([] if "://" in url else stamp(Path(url), Path())[1:])] for url in urls] for urls in splits], find
    )


def tar_images(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each image of a tar."""
    for sample in _grouped(url, "images"):
        if (image := _image_of(sample)) is not None:
            yield f"{redacted(url)}: {sample['__key__']}", image


def _tars(given: object, key: str) -> Iterator[str]:
    """Yield the paths and URLs that one or several patterns with {000..010} or * name."""
    from braceexpand import braceexpand

    for text in given if isinstance(given, list) else [given]:
        for name in braceexpand(str(text)):
            if "://" in name:
                yield name
            elif found := sorted(glob.glob(name)):
                yield from found
            else:
                raise InputError(f"{key}: there is no file {name}")


def _members(url: str) -> Iterator[tuple[str, int | str, bytes]]:
    """Yield (name, label, content) of each image of a tar, without writing anything to disk."""
    for sample in _grouped(url, "dataset.train"):
        if (image := _image_of(sample)) is not None:
            name = f"{redacted(url)}: {sample['__key__']}"
            yield name, _label(sample, name), image


def _image_of(sample: dict[str, bytes]) -> bytes | None:
    return next((sample[end[1:]] for end in ENDINGS if end[1:] in sample), None)


def _grouped(url: str, key: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of a tar: for each key, the contents of its files by their ending."""
    from webdataset.tariterators import group_by_keys

    files = ((name, content) for name, content in tar_files(url, key) if content is not None)
    entries = ({"fname": name, "data": content, "__url__": url} for name, content in files)
    try:
        yield from group_by_keys(entries)
    except ValueError as error:  # two members of one name
        raise InputError(f"cannot read {redacted(url)}: {' '.join(map(str, error.args[:1]))[:200]}") from error


def _label(sample: dict[str, bytes], name: str) -> int | str:
    try:
        if "cls" in sample:
            text = sample["cls"].decode().strip()
        else:
            told = json.loads(sample["json"])
            keys = ("label", "cls", "class")
            text = next(told[key] for key in keys if key in told) if isinstance(told, dict) else told
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", str(text)) else str(text)
    except (KeyError, ValueError, StopIteration) as error:
        raise InputError(
            f"{name} has no label: each image needs a .cls, or a .json with a label, of the same name"
        ) from error
