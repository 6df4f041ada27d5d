"""Parquet files that are made to fill the memory are refused in one line, by the headers of their pages."""

import io
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.sources import parquet, parquet_pages
from fastconv.data.sources.parquet_pages import BATCH_ROWS, pages, safe_batch_rows
from fastconv.system.errors import InputError

COLUMNS = ("image", "label")


def noise(count, size, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.bytes(size) for _ in range(count)]


def write(path, cells, name="{}.png", **settings):
    """A file of a struct of bytes and path, as Hugging Face writes it, and of labels."""
    rows = [{"bytes": cell, "path": name.format(at)} for at, cell in enumerate(cells)]
    pq.write_table(pa.table({"image": rows, "label": [at % 2 for at in range(len(rows))]}), path, **settings)
    return path


def refusal(path, folder):
    with pytest.raises(InputError) as told:
        load(Dataset(name="own", source="parquet", train=str(path)), folder / "data")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compression": "zstd", "use_dictionary": False, "data_page_size": 5000},
        {"compression": "gzip", "data_page_version": "2.0", "data_page_size": 5000},
        {"compression": "none", "row_group_size": 7, "write_statistics": True, "write_page_index": True},
        {"use_dictionary": False, "column_encoding": {"label": "DELTA_BINARY_PACKED"}, "version": "2.6"},
    ],
)
def test_the_headers_tell_the_sizes_that_the_metadata_has(tmp_path, settings):
    path = write(tmp_path / "a.parquet", [None if at % 9 == 4 else each for at, each in enumerate(noise(50, 700))],
                 **settings)  # fmt: skip
    metadata = pq.ParquetFile(path).metadata
    found = 0
    with path.open("rb") as file:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                own = list(pages(file, column, path))
                assert sum(page.header + page.packed for page in own) == column.total_compressed_size
                assert sum(page.header + page.unpacked for page in own) == column.total_uncompressed_size
                assert sum(page.values for page in own if page.is_data) == column.num_values
                assert any(not page.is_data for page in own) == column.has_dictionary_page
                found += len(own)
    assert found >= 3 * metadata.num_row_groups
    assert safe_batch_rows(path, metadata, COLUMNS) == BATCH_ROWS


def test_a_file_that_unpacks_to_far_more_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "FREE_BYTES", 2**20)
    monkeypatch.setattr(parquet_pages, "MOST_RATIO", 20)
    path = write(tmp_path / "a.parquet", [bytes(600_000)] * 2, compression="zstd", use_dictionary=False)
    size = path.stat().st_size
    assert size < 5000
    assert f"{path} has {size:,} bytes, and unpacks to 1,200," in refusal(path, tmp_path)
    # What does not compress is no such file, however large.
    write(path, noise(4, 600_000), compression="zstd", use_dictionary=False)
    assert "(not an image)" in refusal(path, tmp_path)


def test_an_image_of_a_dictionary_in_many_rows_is_not_copied_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "FREE_BYTES", 2**20)
    monkeypatch.setattr(parquet_pages, "BATCH_BYTES", 2**16)
    monkeypatch.setattr(parquet_pages, "MOST_RATIO", 2)
    path = write(tmp_path / "a.parquet", noise(1, 9000) * 1000, name="")
    assert path.stat().st_size < 20_000, "it is there once"
    assert safe_batch_rows(path, pq.ParquetFile(path).metadata, COLUMNS) == 2**16 // 9004
    read = []
    monkeypatch.setattr(parquet, "SpooledSamples", lambda spool, rows, number: read.extend(rows))
    assert f"{path} has " in refusal(path, tmp_path)
    assert 100 < len(read) < 130  # of a megabyte


def test_rows_without_anything_in_them_are_not_counted_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "FREE_BYTES", 2**20)
    path = tmp_path / "a.parquet"
    nothing = pa.nulls(100_000, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": nothing, "label": pa.nulls(100_000, pa.int64())}), path)
    assert path.stat().st_size < 5000
    assert "which would fill the memory" in refusal(path, tmp_path)


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def test_a_page_is_not_believed_to_be_as_small_as_the_metadata_says(tmp_path):
    """The header of the page alone is changed: pyarrow would make room for 2 GB."""
    path = write(tmp_path / "a.parquet", [bytes(3000)] * 2, compression="zstd", use_dictionary=False)
    metadata = pq.ParquetFile(path).metadata
    (page,) = pages(path.open("rb"), metadata.row_group(0).column(0), path)
    # The first fields of a header are its type, 0, and the size that the page unpacks to.
    old, new = (b"\x15\x00\x15" + varint(2 * size) for size in (page.unpacked, 2**31 - 1))
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    assert "has a page of 2,147,483,647 bytes in the column image.bytes" in refusal(path, tmp_path)


def test_damaged_headers_are_one_line(tmp_path):
    path = write(tmp_path / "a.parquet", noise(20, 300), use_dictionary=False)
    content = path.read_bytes()
    draw = np.random.default_rng(1)
    for _ in range(200):
        changed = bytearray(content)
        for at in draw.integers(4, 60, 3):
            changed[at] = draw.integers(256)
        path.write_bytes(changed)
        metadata = pq.ParquetFile(path).metadata
        try:
            safe_batch_rows(path, metadata, COLUMNS)
        except InputError as told:
            assert str(path) in str(told)  # noqa: PT017


def test_encodings_that_count_their_values_again_are_not_read(tmp_path):
    path = write(tmp_path / "a.parquet", noise(4, 300), use_dictionary=False,
                 column_encoding={"image.bytes": "DELTA_BYTE_ARRAY", "image.path": "PLAIN"})  # fmt: skip
    assert "has the column image.bytes in an encoding that is not read: write it" in refusal(path, tmp_path)


def test_a_page_that_memory_cannot_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "MOST_PAGE_BYTES", 2**20)
    path = write(tmp_path / "a.parquet", noise(3, 400_000), use_dictionary=False)
    told = refusal(path, tmp_path)
    assert "in the column image.bytes, too many to hold in memory: if it is yours, write it with smaller row" in told


def test_memory_stays_flat_while_a_file_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", noise(400, 50_000), use_dictionary=False, row_group_size=100,
                 data_page_size=200_000)  # fmt: skip
    file = parquet._opened(path, "train")
    most, count = 0, 0
    for _ in parquet._rows(file, "image", "label", []):
        most, count = max(most, pa.total_allocated_bytes()), count + 1
    assert count == 400
    assert most < 2**23  # of 20 MB: a batch of 3 MB, and a page


def bomb(side):
    """A PNG whose header says side x side pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "png")
    content = bytearray(file.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def test_images_that_decode_to_far_too_many_pixels_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", [bomb(60_000), bomb(50_000)])
    assert "none of 2 images of own can be read, such as" in (told := refusal(path, tmp_path))
    assert "(more than 268 million pixels)" in told
