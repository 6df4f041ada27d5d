"""Predictions of any number of images, streamed from files, folders and tars to a CSV or JSON lines file."""

import contextlib
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from fastconv.analysis.checkpoint import TrainedRun
from fastconv.analysis.predictor import Predictor
from fastconv.config.schema import DATA_FOLDERS, Config
from fastconv.data.dataset import images_at_once
from fastconv.data.download import read_url
from fastconv.data.sources.decode import reason_of
from fastconv.data.sources.folders import image_files
from fastconv.data.sources.formats import open_image
from fastconv.data.sources.patterns import matching
from fastconv.data.sources.pixels import to_array
from fastconv.data.sources.tar_files import MOST_FILE_BYTES
from fastconv.data.sources.walk import PassedOver, is_tar
from fastconv.data.sources.webdataset import tar_images
from fastconv.system.cores import core_count
from fastconv.system.errors import InputError
from fastconv.system.files import read_file, replacing
from fastconv.system.json_text import as_json
from fastconv.system.names import csv_cell, printable, valid_unicode
from fastconv.system.settings import data_folder
from fastconv.system.urls import redacted

# Images that a thread decodes at once.
SLICE = 50

T = TypeVar("T")
Ranking = list[tuple[str, float]]
"""The most probable classes of an image with their probabilities."""
Writer = Callable[[str, Ranking, str | None], None]
"""Writes a row: the image's name, its classes, and why it could not be read or None."""


@dataclass(frozen=True)
class Written:
    """The number of images that have a row, and of those that could not be read; sentences, without a full stop, about
    what was passed over; and (name, reason) of the first image that could not be read, if there is one."""

    images: int
    failed: int
    notes: list[str]
    first_failed: tuple[str, str] | None = None


@dataclass(frozen=True)
class Batch:
    """Names of some images, those that could be decoded uint8 [N, H, W, C], and for each name its error or None."""

    names: list[str]
    images: np.ndarray | None
    errors: list[str | None]


def write_predictions(
    predictor: Predictor, images: Sequence[str], out: str, top: int = 1, tta: bool = False
) -> Written:
    """Predict images and write a row for each as they come, so that memory does not grow with their number.

    Args:
        predictor: the trained network.
        images: paths of files, folders or tars, patterns of such, or URLs.
        out: a file that ends in .csv or .jsonl, or - for standard output, as JSON lines.
        top: most probable classes to write for each image.
        tta: score each image in the views that the run was tested with.

    Raises InputError for a tar that is not one, and if there is no image.
    """
    total = failed = 0
    first_failed = None
    passed = PassedOver(output=Path(out).absolute())
    with _open(out) as file:
        write = _csv_writer(file, top) if out.endswith(".csv") else _json_writer(file)
        for batch in decoded_batches(predictor, images, passed):
            rankings = iter(predictor.predict(batch.images, tta).top(top) if batch.images is not None else ())
            for name, error in zip(batch.names, batch.errors, strict=True):
                write(name, next(rankings) if error is None else [], error)
                failed += error is not None
                if error is not None and first_failed is None:
                    first_failed = name, error
            total += len(batch.names)
        if not total:
            line = "; ".join([f"images={' and '.join(images)} has no images", *passed.lines()])
            raise InputError(printable(line))
    return Written(total, failed, passed.lines(), first_failed)


def decoded_batches(predictor: Predictor, images: Sequence[str], passed: PassedOver) -> Iterator[Batch]:
    """Yield the images in batches, decoded by threads in the colours and the size that the network takes.

    `passed` notes what is passed over.
    """
    skip = frozenset(map(os.path.realpath, _own_folders(predictor.run)))
    run = predictor.run
    target = predictor.shape[:2], predictor.shape[2] == 1, run.levels, run.resize

    def decode(name: str, content: bytes | Path) -> np.ndarray | str:
        try:
            data = read_file(content) if isinstance(content, Path) else content
            return to_array(open_image(data), *target)
        except Exception as error:  # Pillow has many, and a file may be anything
            return reason_of(error, name)

    with ThreadPoolExecutor(core_count()) as pool, ThreadPoolExecutor(1) as ahead:

        def work(chunk: Sequence[tuple[str, bytes | Path]]) -> Batch:
            # In slices: handing a thread one small image at a time would take as long as decoding it. Of large ones,
            # which come few at once, each thread gets some.
            size = max(1, min(SLICE, len(chunk) // core_count()))
            decoded = [each for part in pool.map(lambda part: [decode(*each) for each in part], _batched(chunk, size))
                       for each in part]  # fmt: skip
            arrays = [each for each in decoded if not isinstance(each, str)]
            errors = [each if isinstance(each, str) else None for each in decoded]
            return Batch([name for name, _ in chunk], np.stack(arrays) if arrays else None, errors)

        chunks = _batched(_files(images, skip, passed), max(core_count(), images_at_once(predictor.shape)))
        if predictor.on_cpu:  # a network whose threads wait for one that decodes loses more than all of them decoding
            yield from map(work, chunks)
            return
        # While the network computes one batch, the next is decoded.
        waiting: Future[Batch] | None = None
        for chunk in chunks:
            coming = ahead.submit(work, chunk)
            if waiting:
                yield waiting.result()
            waiting = coming
        if waiting:
            yield waiting.result()


def _own_folders(run: TrainedRun) -> Iterator[Path]:
    """Yield the folders that fastconv writes to: those of the run, and the usual ones of a run that came here."""
    data = Path(data_folder(Config.data))
    yield from (run.folder, *run.config.own_folders(), Path(Config.outputs), *(data / name for name in DATA_FOLDERS))


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of `size` items, the last one of what is left."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def _files(images: Sequence[str], skip: frozenset[str], passed: PassedOver) -> Iterator[tuple[str, bytes | Path]]:
    """Yield (name, file) of each image, or (name, content) of those in tars."""
    for given in images:
        for text in [given] if "://" in given else matching(given, "images", skip, passed):
            path = Path(text)
            if is_tar(text.partition("?")[0]):
                yield from tar_images(text)
            elif "://" in text:
                yield redacted(text), read_url(text, "images", MOST_FILE_BYTES)
            elif path.is_dir():
                around = skip - {os.path.realpath(path)}
                yield from ((str(file), file) for file in image_files(path, around, passed))
            else:
                yield text, path


@contextlib.contextmanager
def _open(out: str) -> Iterator[IO[str]]:
    """Open the file to write, which gets its name only when it is whole."""
    if out == "-":
        if sys.stdout is None:
            raise InputError("out=- is not possible, as standard output is closed: give a file, as out=predictions.csv")
        yield sys.stdout
        return
    with replacing(Path(out)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        yield file


def _csv_writer(file: IO[str], top: int) -> Writer:
    writer = csv.writer(file, lineterminator="\n")
    ends = [""] if top == 1 else [f"_{at + 1}" for at in range(top)]
    writer.writerow(["image", *(f"{key}{end}" for end in ends for key in ("class", "probability")), "error"])

    def write(name: str, ranking: Ranking, error: str | None) -> None:
        cells = [cell for label, probability in ranking for cell in (label, f"{probability:.6f}")]
        row = [name, *cells, *[""] * (2 * top - len(cells)), error or ""]
        writer.writerow([csv_cell(cell) for cell in row])

    return write


def _json_writer(file: IO[str]) -> Writer:
    # A terminal without UTF-8 would turn letters into escapes that JSON does not know.
    escaped = not (getattr(file, "encoding", None) or "utf-8").lower().startswith("utf")

    def write(name: str, ranking: Ranking, error: str | None) -> None:
        classes = [
            {"class": valid_unicode(label), "probability": round(probability, 6)} for label, probability in ranking
        ]
        row: dict[str, object] = {"image": valid_unicode(name), "classes": classes}
        row |= {"error": valid_unicode(error)} if error else {}
        file.write(as_json(row, ascii_only=escaped) + "\n")

    return write
