"""Parquet files that are made to fill the memory are refused in one line, and damaged ones too."""

import io
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.sources import parquet
from fastconv.system.errors import InputError


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


def rewritten(old, new):
    """Write a file again with smaller row groups, as docs/own-data.md says."""
    file = pq.ParquetFile(old)
    with pq.ParquetWriter(new, file.schema_arrow) as smaller:
        for batch in file.iter_batches(100):
            smaller.write_batch(batch)


def test_a_file_that_unpacks_to_far_more_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FREE_BYTES", 2**20)
    monkeypatch.setattr(parquet, "MOST_RATIO", 20)
    path = write(tmp_path / "a.parquet", [bytes(600_000)] * 2, compression="zstd", use_dictionary=False)
    size = path.stat().st_size
    assert size < 5000
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert f"{path} has {size:,} bytes, and unpacks to 1,200," in refusal(path, tmp_path)
    # What does not compress is no such file, however large.
    monkeypatch.undo()
    monkeypatch.setattr(parquet, "FREE_BYTES", 2**20)
    write(path, noise(4, 600_000), compression="zstd", use_dictionary=False)
    assert "(not an image)" in refusal(path, tmp_path)


def test_an_image_of_a_dictionary_in_many_rows_is_not_copied_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FREE_BYTES", 2**20)
    monkeypatch.setattr(parquet, "MOST_RATIO", 2)
    path = write(tmp_path / "a.parquet", noise(1, 9000) * 1000, name="")
    assert path.stat().st_size < 20_000, "it is there once"
    read, most = [], []

    def rows(spool, found, number):
        for each in found:
            read.append(each)
            most.append(pa.total_allocated_bytes())

    monkeypatch.setattr(parquet, "SpooledSamples", rows)
    before = pa.total_allocated_bytes()
    assert f"{path} has " in refusal(path, tmp_path)
    assert 100 < len(read) < 130  # of a megabyte
    assert max(most) - before < 2**18  # of a few copies of the image, and of buffers


def test_rows_without_anything_in_them_are_not_counted_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FREE_BYTES", 2**20)
    path = tmp_path / "a.parquet"
    nothing = pa.nulls(100_000, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": nothing, "label": pa.nulls(100_000, pa.int64())}), path)
    assert path.stat().st_size < 5000
    assert "which would fill the memory" in refusal(path, tmp_path)
    # The metadata is not needed for that.
    monkeypatch.setattr(parquet, "_require_readable", lambda *_: None)
    told = refusal(path, tmp_path)
    assert "and unpacks to 1,3" in told, "of the 25,600,000 bytes of all rows"


def test_the_metadata_is_believed_for_one_row_alone(tmp_path, monkeypatch):
    """A file whose metadata says nothing of what its pages unpack to."""
    monkeypatch.setattr(parquet, "_require_readable", lambda *_: None)
    monkeypatch.setattr(parquet, "FREE_BYTES", 2**20)
    path = write(tmp_path / "a.parquet", [bytes(600_000)] * 40, compression="zstd", use_dictionary=False)
    read = []
    monkeypatch.setattr(parquet, "SpooledSamples", lambda spool, rows, number: read.extend(rows))
    size = path.stat().st_size
    assert f"{path} has {size:,} bytes, and unpacks to" in refusal(path, tmp_path)
    assert len(read) == (2**20 + 200 * size) // 600_022


def test_a_row_group_that_memory_cannot_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 2**20)
    path = write(tmp_path / "a.parquet", noise(300, 4500), use_dictionary=False, row_group_size=250)
    assert (told := refusal(path, tmp_path)).startswith(f"{path} has a row group of 1,1")
    assert "bytes in the columns image and label, and at most 1,048,576 are read: write it with" in told
    assert told.endswith("row_group_size=100 of pyarrow.parquet.write_table or of pandas' to_parquet")
    rewritten(path, smaller := tmp_path / "b.parquet")
    assert pq.read_table(smaller) == pq.read_table(path)
    assert pq.ParquetFile(smaller).num_row_groups == 3
    assert "(not an image)" in refusal(smaller, tmp_path)


def test_columns_that_are_not_read_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 2**20)
    more = {"image2": noise(3, 600_000), "image.small": noise(3, 10), "labels": noise(3, 600_000)}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": noise(3, 300), "label": ["a", "b", "a"], **more}), path, use_dictionary=False)
    given = Dataset(name="own", source="parquet", train=str(path), image_column="image", label_column="label")
    with pytest.raises(InputError, match="not an image"):
        load(given, tmp_path / "data")


@pytest.mark.parametrize("settings", [{}, {"use_dictionary": False}, {"use_dictionary": False, "row_group_size": 100}])
def test_memory_is_bounded_by_a_row_group(tmp_path, settings):
    path = write(tmp_path / "a.parquet", noise(200, 20_000), **{"row_group_size": 50, **settings})
    metadata = pq.ParquetFile(path).metadata
    group = metadata.row_group(0).total_byte_size
    file = parquet._opened(path, "train")
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for _ in parquet._rows(file, "image", "label", []):
        most, count = max(most, pa.total_allocated_bytes() - before), count + 1
    assert count == 200
    assert group * metadata.num_row_groups > 4_000_000
    assert most < 2 * group + 2**20, "twice a row group, and the buffer"


def test_a_file_that_ends_early_is_one_line(tmp_path):
    path = write(tmp_path / "a.parquet", noise(40, 3000), row_group_size=10)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for cut in (0, 3, 12, len(content) // 2, len(content) - footer, len(content) - 8, len(content) - 1):
        path.write_bytes(content[:cut])
        assert refusal(path, tmp_path).startswith(f"cannot read {path}, which must be a parquet file: ")
    # What tells of the columns is whole, but they are not there.
    path.write_bytes(content[:1000] + content[-footer:])
    assert refusal(path, tmp_path).startswith(f"cannot read {path}, which must be a parquet file: ")


def test_damaged_pages_are_one_line(tmp_path):
    path = write(tmp_path / "a.parquet", noise(20, 300), use_dictionary=False)
    content = path.read_bytes()
    draw = np.random.default_rng(1)
    for _ in range(50):
        changed = bytearray(content)
        for at in draw.integers(4, 60, 3):
            changed[at] = draw.integers(256)
        path.write_bytes(changed)
        assert str(path) in refusal(path, tmp_path)


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
