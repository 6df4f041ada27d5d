"""python -m fastconv.predict run=FOLDER images=FILES [key=value ...]

Classify images with a trained network: files, folders (with all below them) or tars. Writes a row for each, as csv or
as a JSON object a line, as they come: memory does not grow with their number.

  python -m fastconv.predict run=outputs/cifar10/2026-11-25_09-00-00-a1b2c3 images=photos
  python -m fastconv.predict run=outputs/a images=[cat.png,more.tar] out=predictions.jsonl top=5
  python -m fastconv.predict run=outputs/a images=photos out=-
"""

import contextlib
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fastconv.config.cli import command
from fastconv.config.commands import Predict, as_list
from fastconv.config.prerequisites import require_writable
from fastconv.config.ranges import check_ranges
from fastconv.config.validation import OPTIONS
from fastconv.system.errors import InputError, nearest

# Images that a thread decodes at once.
SLICE = 50
TARS = (".tar", ".tar.gz", ".tgz")


def check(config: Predict) -> None:
    """Raise InputError for what cannot be predicted, as far as can be told without reading the run."""
    if not as_list(config.images):
        raise InputError("images has no value: give files, folders or tars, as images=[a.png,photos,more.tar]")
    if config.accelerator not in OPTIONS["trainer.accelerator"]:
        options = OPTIONS["trainer.accelerator"]
        raise InputError(
            f"accelerator={config.accelerator} is unknown{nearest(config.accelerator, options)} Choose from:"
            f" {', '.join(options)}"
        )
    check_ranges(config)
    for path in as_list(config.images):
        if "://" not in str(path) and not Path(str(path)).exists():
            raise InputError(f"images={path} is not there: give files, folders or tars")
    if config.out != "-":
        if not config.out.endswith((".csv", ".jsonl")):
            raise InputError(f"out={config.out} is not possible: give a file that ends in .csv or .jsonl, or -")
        require_writable(Path(config.out).absolute().parent)


@command("predict", __doc__, check)
def main(config: Predict) -> None:
    """The command; see the top of this file."""
    check(config)
    from fastconv.analysis.predictor import load

    predictor = load(config.run, config.accelerator)
    total = failed = 0
    with _open(config.out) as file:
        write = _csv_writer(file, config.top) if config.out.endswith(".csv") else _json_writer(file)
        for names, images, errors in _batches(config, predictor):
            found = iter(predictor.predict(images, config.tta).top(config.top)) if images is not None else iter(())
            for name, error in zip(names, errors, strict=True):
                write(name, next(found) if error is None else [], error)
                failed += error is not None
            total += len(names)
    if not total:
        raise InputError(f"images={config.images} has no images")
    where = "" if config.out == "-" else f" in {config.out}"
    missing = f"; {failed:,} could not be read, and have the reason instead of a class" if failed else ""
    print(f"{total:,} images{where}{missing}", file=sys.stderr if config.out == "-" else sys.stdout)


def _batches(config: Predict, predictor) -> Iterator[tuple[list[str], object, list[str | None]]]:
    """Names of some images, those that could be read as one array, and of each why it could not be read or None."""
    from concurrent.futures import ThreadPoolExecutor
    from os import cpu_count

    import numpy as np

    from fastconv.analysis.predictor import BATCH_SIZE
    from fastconv.data.sources.decode import open_image, reason_of, to_array

    def decode(content: bytes | Path) -> object:
        try:
            data = content.read_bytes() if isinstance(content, Path) else content
            return to_array(open_image(data), predictor.shape[0], grey=predictor.shape[2] == 1)
        except Exception as error:  # Pillow has many, and a file may be anything
            return reason_of(error)

    def chunks() -> Iterator[list[tuple[str, bytes | Path]]]:
        chunk = []
        for each in _files(config):
            chunk.append(each)
            if len(chunk) == BATCH_SIZE:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    with ThreadPoolExecutor(cpu_count() or 1) as pool, ThreadPoolExecutor(1) as ahead:

        def work(chunk: list) -> tuple[list[str], object, list[str | None]]:
            # In slices: handing a thread one small image at a time would take as long as decoding it.
            parts = [[content for _, content in chunk[at : at + SLICE]] for at in range(0, len(chunk), SLICE)]
            decoded = [
                each for part in pool.map(lambda part: [decode(content) for content in part], parts) for each in part
            ]
            arrays = [each for each in decoded if not isinstance(each, str)]
            errors = [each if isinstance(each, str) else None for each in decoded]
            return [name for name, _ in chunk], np.stack(arrays) if arrays else None, errors

        if predictor.on_cpu:  # a network whose threads wait for one that decodes loses more than all of them decoding
            yield from map(work, chunks())
            return
        # While the network is at one batch, the next is decoded.
        waiting = None
        for chunk in chunks():
            coming = ahead.submit(work, chunk)
            if waiting:
                yield waiting.result()
            waiting = coming
        if waiting:
            yield waiting.result()


def _files(config: Predict) -> Iterator[tuple[str, bytes | Path]]:
    """(name, file) of each image, or (name, content) of those in tars."""
    from fastconv.data.sources.folders import image_files
    from fastconv.data.sources.webdataset import tar_images

    for text in map(str, as_list(config.images)):
        path = Path(text)
        if text.lower().endswith(TARS):
            yield from tar_images(text)
        elif path.is_dir():
            yield from ((str(file), file) for file in image_files(path))
        else:
            yield text, path


@contextlib.contextmanager
def _open(out: str) -> Iterator[IO[str]]:
    """The file to write, which has its name only when it is whole."""
    if out == "-":
        yield sys.stdout
        return
    path = Path(out)
    partial = path.with_name(f".{path.name}.part")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _csv_writer(file: IO[str], top: int):
    writer = csv.writer(file, lineterminator="\n")
    ends = [""] if top == 1 else [f"_{at + 1}" for at in range(top)]
    writer.writerow(["image", *(f"{key}{end}" for end in ends for key in ("class", "probability")), "error"])

    def write(name: str, found: list[tuple[str, float]], error: str | None) -> None:
        cells = [cell for label, chance in found for cell in (label, f"{chance:.6f}")]
        writer.writerow([name, *cells, *[""] * (2 * top - len(cells)), error or ""])

    return write


def _json_writer(file: IO[str]):
    def write(name: str, found: list[tuple[str, float]], error: str | None) -> None:
        row = {"image": name, "classes": [{"class": label, "probability": round(chance, 6)} for label, chance in found]}
        file.write(json.dumps(row | ({"error": error} if error else {}), ensure_ascii=False) + "\n")

    return write


if __name__ == "__main__":
    main()
