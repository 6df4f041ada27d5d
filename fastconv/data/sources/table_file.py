"""Reads the rows of a table in a text file, whatever its encoding and its separator."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fastconv.system.errors import InputError

SEPARATORS = (",", ";", "\t", "|")
# A cell may hold the pixels of an image, as text.
LONGEST_CELL = 2**24
# The first bytes of files that are tables, but no text.
_NO_TEXT = {
    b"PK\x03\x04": "a zip or an Excel file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a database",
}
# The first characters of texts that are no tables.
_NO_TABLE = {**dict.fromkeys(('{"', "{'", "[{", '["', '[["'), "JSON"), "<?xml": "XML", "<html": "a web page",
             "<!doctype": "a web page"}  # fmt: skip

Rows = Iterator[tuple[int, list[str]]]
"""The number of the line on which a row ends, from 1 on, and its cells without spaces around them."""


def read_rows(path: Path) -> Rows:
    """Yield the rows of a table of text: UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars.

    Rows without any value are passed over. A file without a separator has two columns, the last word of each line being
    the second. Raises InputError for a file that is not such a table.
    """
    number = 0
    try:
        encoding = _encoding(path)
        with path.open(newline="", encoding=encoding) as file:
            separator, above = _separator(file)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True) if separator else None
            before = csv.field_size_limit(LONGEST_CELL)
            try:
                for row in reader if reader else (line.rsplit(None, 1) for line in file):
                    number = above + reader.line_num if reader else number + 1
                    cells = [cell.strip() for cell in row]
                    if any(cells):
                        yield number, cells
            finally:
                csv.field_size_limit(before)
    except UnicodeDecodeError as error:
        raise _undecodable(path, encoding) from error
    except csv.Error as error:
        raise InputError(f"cannot read {path}, line {number + 1}: {error}. Are its quotes in pairs?") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _undecodable(path: Path, encoding: str) -> InputError:
    """The error for a text with a byte that is not of its encoding; it names the byte and its line."""
    content = path.read_bytes()
    plain = encoding.removesuffix("-sig")  # errors count from behind the byte order mark otherwise
    try:
        content.decode(plain)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(plain, "ignore")
        line = 1 + len(re.findall(r"\r\n?|\n", before))
        byte = content[error.start : error.start + 1].hex()
        return InputError(
            f"{path} has a byte that is not {plain.upper()}, {byte}, in line {line}: save the table as UTF-8"
        )
    return InputError(f"{path} has changed while it was read: try again")


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1024)
    text = "".join(head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore").split()).lower()
    for begins, what in _NO_TABLE.items():
        if text.startswith(begins):
            raise InputError(f"{path} is {what}: give a table, such as a csv or tsv")
    for start, what in _NO_TEXT.items():
        if head.startswith(start):
            raise InputError(f"{path} is {what}: give a table of text, such as a csv")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        raise InputError(f"{path} is no table of text in UTF-8: save it as a csv in UTF-8")
    return "utf-8-sig"


def _separator(file: IO[str]) -> tuple[str, int]:
    """The separator that the first line has, or that it names (`sep=;`, as spreadsheets do); empty if there is none.

    Leaves the file at its first row, and returns the number of lines above it too.
    """
    above, first = 0, file.readline()
    while first and not first.strip():
        above, first = above + 1, file.readline()
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        return first.strip()[4], above + 1
    file.seek(0)
    counts = {each: len(next(csv.reader([first], delimiter=each), [])) for each in SEPARATORS}
    return max(SEPARATORS, key=lambda each: counts[each]) if max(counts.values()) > 1 else "", 0
