"""The pages of a parquet file, whose headers say what they unpack to: to refuse a file before pyarrow unpacks it.

The file's metadata says that too, but nothing holds it to the truth. pyarrow makes room for what the header of a page
says, and ends with an error where the page does not fill it: so headers are true, or harmless.
https://parquet.apache.org/docs/file-format, https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fastconv.data.sources.unpacking import FREE_BYTES, IMAGE_BYTES, MOST_RATIO
from fastconv.system.errors import InputError

# Rows that are in memory at a time, of at most so many bytes; one row may have more.
BATCH_ROWS, BATCH_BYTES = 64, 2**26
# The largest page: pyarrow puts up to 1,024 images of a row group into one, here a megabyte each. It has 2 GB at most.
MOST_PAGE_BYTES = 2**30
# What pyarrow reads of a header at most: it may have statistics, and in them images.
FIRST_HEADER_BYTES, MOST_HEADER_BYTES = 2**12, 2**24
# pyarrow reads this much beyond a column that an old writer has measured wrongly.
BEYOND = 100
# Encodings of values: PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY and BYTE_STREAM_SPLIT. The
# others, DELTA_LENGTH_BYTE_ARRAY and DELTA_BYTE_ARRAY, count their values once more, and pyarrow makes room for these.
ENCODINGS = (0, 2, 3, 5, 8, 9)
# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT, _UUID = range(1, 14)
_DEEPEST = 16
# Fields of a page's header: its type and sizes. By its type, the field of the header that a data page, a dictionary or
# a data page of version 2 has, and in that the field of the encoding; that of the number of values is the first.
_TYPE, _UNPACKED, _PACKED = 1, 2, 3
_KINDS = {0: (5, 2), 2: (7, 2), 3: (8, 4)}
_DICTIONARY = 2


@dataclass(frozen=True)
class Page:
    """A page: the bytes of its header, its bytes in the file and unpacked, and the number of its values.

    `encoding` is that of its values, and `is_data` whether they are rows; else they are a dictionary's.
    """

    header: int
    packed: int
    unpacked: int
    values: int
    encoding: int
    is_data: bool


def safe_batch_rows(path: Path, metadata: Any, names: tuple[str, ...]) -> int:
    """How many rows of some columns may be read at a time, so that they take a bounded amount of memory.

    Args:
        path: a parquet file.
        metadata: its `pyarrow.parquet.FileMetaData`.
        names: the columns.

    Raises InputError for a file that is made to fill the memory, and for a damaged one. It reads no more than headers.
    """
    size, unpacked, values, largest = path.stat().st_size, 0, 0, 1
    with path.open("rb") as file:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema
                if not any(name == each or name.startswith(f"{each}.") for each in names):
                    continue
                for page in pages(file, column, path):
                    if page.encoding not in ENCODINGS:
                        raise InputError(
                            f"{path} has the column {name} in an encoding that is not read: write it with pyarrow or"
                            " Hugging Face's datasets, as they do by themselves"
                        )
                    if page.unpacked > MOST_PAGE_BYTES:
                        raise InputError(
                            f"{path} has a page of {page.unpacked:,} bytes in the column {name}, too many to hold in"
                            " memory: if it is yours, write it with smaller row groups, such as row_group_size=100"
                        )
                    unpacked, values = unpacked + page.unpacked, values + page.values
                    largest = max(largest, page.unpacked)
                    require_plausible(path, size, max(unpacked, values * IMAGE_BYTES))
    # A row is no larger than a page, from whose dictionary it may come.
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def require_plausible(path: Path, size: int, unpacked: int) -> None:
    """Raise InputError if a file of `size` bytes unpacks to more than images do."""
    if unpacked > FREE_BYTES + MOST_RATIO * size:
        raise InputError(
            f"{path} has {size:,} bytes, and unpacks to {unpacked:,} or more, which would fill the memory: if it is"
            " yours, write it with the images as JPEG or PNG"
        )


def pages(file: IO[bytes], column: Any, path: Path) -> Iterator[Page]:
    """Yield the pages of a column of a row group, those that pyarrow reads.

    Args:
        file: the open file.
        column: a `pyarrow.parquet.ColumnChunkMetaData`.
        path: names the file.

    Raises InputError for a header that is damaged.
    """
    at, dictionary = column.data_page_offset, column.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < at:
        at = dictionary
    end, seen = at + column.total_compressed_size + BEYOND, 0
    while seen < column.num_values and at < end:
        page = _page(file, at)
        if page is None:
            raise InputError(f"cannot read {path}, which must be a parquet file: a page of it is damaged")
        yield page
        seen += page.values * page.is_data
        at += page.header + page.packed


def _page(file: IO[bytes], at: int) -> Page | None:
    """The page whose header is at an offset; None if it is damaged."""
    length = FIRST_HEADER_BYTES
    while length <= MOST_HEADER_BYTES:
        file.seek(at)
        content = file.read(length)
        try:
            header = _Compact(content)
            fields = header.struct()
        except IndexError:  # it is longer
            if len(content) < length:
                return None
            length *= 16
            continue
        except ValueError:
            return None
        kind: Any = fields.get(_TYPE)
        field, encoding = _KINDS.get(kind, (0, 0))
        about = fields.get(field, {} if kind not in _KINDS else None)
        if not isinstance(about, dict):
            return None
        page = Page(
            header.at,
            packed=fields.get(_PACKED, -1),
            unpacked=fields.get(_UNPACKED, -1),
            values=about.get(1, 0),
            encoding=about.get(encoding, 0),
            is_data=kind in _KINDS and kind != _DICTIONARY,
        )
        numbers: list[Any] = [page.packed, page.unpacked, page.values, page.encoding]
        return page if all(isinstance(number, int) and number >= 0 for number in numbers) else None
    return None


class _Compact:
    """Reads values of Thrift's compact protocol: of a struct the numbers and the structs in it, by their fields.

    Raises IndexError where the content ends too early, and ValueError for what is none.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        field = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 15
            field = field + step if step else self._number()
            value = self._value(kind, depth)
            if kind in (_I32, _STRUCT):  # a reader passes over a field of another type than its own
                fields[field] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):  # the type is the value
            return None
        if kind == _BYTE:
            return self._skip(1)
        if kind in (_I16, _I32, _I64):
            return self._number()
        if kind in (_DOUBLE, _UUID):
            return self._skip(8 if kind == _DOUBLE else 16)
        if kind == _BINARY:
            return self._skip(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind not in (_LIST, _SET) or depth > _DEEPEST:
            raise ValueError(f"type {kind}")
        first = self._byte()
        for _ in range(self._varint() if first >> 4 == 15 else first >> 4):
            if (first & 15) in (_TRUE, _FALSE):
                self._skip(1)
            else:
                self._value(first & 15, depth + 1)
        return None

    def _byte(self) -> int:
        self.at += 1
        return self._content[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self._content):
            raise IndexError

    def _varint(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _number(self) -> int:
        """A number of 32 bits, of which a reader of such a field keeps the lower ones."""
        found = self._varint() & 0xFFFFFFFF
        return (found >> 1) ^ -(found & 1)
