"""Stores data sets that Python code hands over in columns: a table and, unless they are files already, its images.

Later commands on a run read them as any other table.
"""

import csv
import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastconv.analysis.given_images import require_bytes
from fastconv.analysis.given_tables import GivenTable, is_missing
from fastconv.data.sources.array_values import as_images
from fastconv.data.sources.formats import FORMATS
from fastconv.data.sources.image_paths import ImagePaths
from fastconv.data.sources.pixels import ORIENTATION, orientation_of
from fastconv.system.errors import InputError, message_of
from fastconv.system.files import read_file, unwritable
from fastconv.system.names import printable, valid_unicode

# What the table and the folder of images are called.
TABLE, IMAGES = "table.csv", "images"
# Modes of Pillow that a PNG keeps as they are; others are stored as TIFF.
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def store_table(table: GivenTable, folder: Path) -> tuple[Path, bool]:
    """Write a table, and the images that are no files, below a folder named by their content.

    Returns the path of the table, and whether it was there before. Raises InputError, naming the row, for images and
    labels that cannot be learned, and if the folder cannot be written; then nothing stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(suffix=".part", dir=folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        digest = _write(table, aside)
        target, known = folder / digest, False
        try:
            aside.rename(target)
        except OSError:  # it is there, perhaps since this moment: other ranks store the same table
            known = (target / TABLE).is_file()
            if not known:
                raise
        return target / TABLE, known
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(table: GivenTable, aside: Path) -> str:
    """Write a table and its images into a folder; returns 16 hex digits of their content."""
    digest, files, count = hashlib.sha256(), ImagePaths(Path.cwd()), 0
    (aside / IMAGES).mkdir()
    with (aside / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        more = [table.split] if table.split is not None else []
        writer.writerow(["path", "label", *more, *table.unused])
        digest.update("".join(more).encode())  # the same values mean another split under is_train than under is_test
        for at, row in enumerate(table.rows):
            where = f"{table.where}, row {at}"
            told, image, content = _label(row.label, where), row.image, b""
            if isinstance(image, Mapping):  # as Hugging Face stores it
                image = image.get("bytes") or image.get("path")
            if isinstance(image, str | Path):
                found = files.find(str(image))
                if found is None:
                    what = "is a URL: download the images first" if "://" in str(image) else "is not there"
                    raise InputError(f"{where}: {str(image)[:200]} {what}")
                name = str(found.absolute())
                if printable(name).strip() != name:  # a table cannot name it, as with bytes that are not UTF-8
                    image = _read(found, where)
            if not isinstance(image, str | Path):
                content, ending = _content(image, where)
                name = f"{IMAGES}/{at:07}{ending}"
                (aside / name).write_bytes(content)
            cells = [name, told, *("" if is_missing(row.split) else str(row.split) for _ in more)]
            writer.writerow([*cells, *("" for _ in table.unused)])
            digest.update(f"{cells!r} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
            count += 1
    if not count:
        raise InputError(f"{table.where} has no rows: give an image and a label in each")
    return digest.hexdigest()[:16]


def _label(label: Any, where: str) -> str:
    """A label as a cell of the table; empty if it is missing."""
    if is_missing(label):
        return ""
    label = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
    if isinstance(label, np.ndarray) and label.ndim == 0:
        label = label.item()
    if not isinstance(label, str | int | float | np.generic):
        raise InputError(f"{where}: the label is {type(label).__name__}: give a number or a name")
    return valid_unicode(str(label))  # as classes are called that are folders


def _read(path: Path, where: str) -> bytes:
    """The content of a file. Raises InputError for one that cannot be read."""
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"{where}: cannot read {printable(str(path))}: {error.strerror}") from error


def _content(image: Any, where: str) -> tuple[bytes, str]:
    """An image as the bytes of a file, and the ending of its name. Encoded ones stay as they are."""
    if isinstance(image, bytes | bytearray):
        return bytes(image), _ending_of(bytes(image))
    if isinstance(image, np.ndarray) or hasattr(image, "detach"):
        array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
        require_bytes(array)
        array = as_images(array[None], f"{where} has an image")[0]
        image = Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
    if not isinstance(image, Image.Image):
        raise InputError(
            f"{where}: the image is {type(image).__name__}: give a path, bytes, an image of Pillow or an array uint8"
        )
    file = io.BytesIO()
    exif = Image.Exif()
    if (turned := orientation_of(image)) != 1:
        exif[ORIENTATION] = turned
    try:
        if image.mode in PNG_MODES:
            image.save(file, "PNG", compress_level=1, exif=exif)
            return file.getvalue(), ".png"
        image.save(file, "TIFF", exif=exif)
        return file.getvalue(), ".tif"
    except Exception as error:  # each of Pillow's readers has its own, and an image may not have been read yet
        raise InputError(f"{where}: the image cannot be read: {message_of(error, 200)}") from error


def _ending_of(content: bytes) -> str:
    """The ending of a file of an image, by its first bytes; that of a PNG where they are not known."""
    starts = {b"\xff\xd8": "JPEG", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WEBP", b"II*": "TIFF", b"MM\0*": "TIFF"}
    return next((FORMATS[name][0] for start, name in starts.items() if content.startswith(start)), ".png")
