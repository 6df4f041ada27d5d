"""A user's own images in WebDataset tars, on disk or behind URLs.

The tars are not unpacked: their images are read once, into one temporary file.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv.data.download import ADVICE, tried
from fastconv.data.sources.base import Found, Source, source, stamp
from fastconv.data.sources.labels import class_names, class_notes, numbered
from fastconv.data.sources.patterns import matching
from fastconv.data.sources.spool import Spool, SpooledSamples
from fastconv.data.sources.tar_files import tar_files
from fastconv.data.sources.tar_samples import TarSamples, image_members
from fastconv.data.url_place import Place
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Part of the stamp: to be counted up when other members of a tar are read than before.
READING = 2


@source("webdataset")
def webdataset(dataset: "Dataset", data: Path) -> Source:
    """Tar shards of images (jpg, png, webp, ...), each with a label as .cls or in a .json, on disk or behind URLs."""
    if not dataset.train:
        raise InputError("dataset.train is not set: name the tars to train on, such as dataset.train=train-*.tar")
    keys = ["train", "test"] if dataset.test else ["train"]
    splits = [[(url, f"dataset.{key}") for url in _tars(getattr(dataset, key), f"dataset.{key}")] for key in keys]
    first = redacted(splits[0][0][0])
    stamps = [[[url, *_version(url, key)] for url, key in urls] for urls in splits]
    silent = [redacted(url) for split in stamps for url, *version in split if not version]
    notes = [
        f"{url} is read once: its server tells neither size nor date, by which a change would show"
        for url in silent[:1]
    ]

    def find() -> Found:
        spool = Spool(data / "arrays")
        tars = [[TarSamples(tar_files(url, key), redacted(url), spool.add) for url, key in urls] for urls in splits]
        texts, number = Counter[str](), dict[str, int]()

        def members(tar: TarSamples) -> Iterator[tuple[str, str, range]]:
            for sample in tar:
                texts[sample.label] += sample.ending == ".txt"
                yield sample.name, sample.label, sample.image

        read = [SpooledSamples(spool, (each for tar in split for each in members(tar)), number) for split in tars]
        unreadable = [each for split in tars for tar in split for each in tar.unreadable]
        labels = {label for split in read for label in split.labels}
        if not labels and unreadable:
            name, why = unreadable[0]
            raise InputError(
                f"{name} has {why}: each image needs a .cls, or a .json with a label, of the same name"
                + ("; if its folder is its class, unpack the tar for dataset=image_folder" if "/" in name else "")
            )
        captions = [label for label, count in texts.items() if count]
        if captions and len(captions) * 2 > texts.total():
            raise InputError(
                f"{first} has .txt files that seem to be captions, such as {captions[0][:60]!r}: each image needs a"
                " .cls, or a .json with a label"
            )
        names, numbers = _classes(labels, first, unreadable)
        number.update(numbers)
        notes = [note for split in tars for tar in split for note in tar.notes]
        return Found.of(names, read, unreadable, (*notes, *class_notes(names)))

    return Source([READING, *stamps], find, tuple(notes))


def tar_images(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each image of a tar, with a label or without. The content of a link is empty."""
    return image_members(tar_files(url, "images"), redacted(url))


def _tars(given: object, key: str) -> Iterator[str]:
    """Yield the paths and URLs that one or several patterns with {000..010} or * name."""
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    for text in map(str, given if isinstance(given, list) else [given]):
        if "://" not in text and os.path.lexists(text):  # its name may have braces in it
            yield text
            continue
        try:
            names = list(braceexpand(text))
        except UnbalancedBracesError as error:
            raise InputError(
                f"{key}={redacted(text)} has braces that are not in pairs: give a range as in train-{{000..010}}.tar"
            ) from error
        for name in names:
            yield from [name] if "://" in name else matching(name, key)


def _version(url: str, key: str) -> list[Any]:
    """The properties of a tar that differ between two versions of it; empty if its server does not say.

    Raises UnavailableError for a tar of which nothing is heard: without its version, it would be read once more.
    """
    if "://" not in url:
        return [os.path.realpath(url), *stamp(Path(url), Path())[1:]]
    return tried(Place(url, key).about, redacted(url), threading.Event(), ADVICE)


def _classes(labels: Set[str], where: str, left_out: Sequence[tuple[str, str]]) -> tuple[list[str], dict[str, int]]:
    """Names of the classes, and the number of each label. Labels that are equal as whole numbers are one class."""
    names = class_names(labels, where, left_out)
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names.values()):
        names = {label: str(int(name)) for label, name in names.items()}
    return numbered(names)
