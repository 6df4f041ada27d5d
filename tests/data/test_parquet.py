"""Images in parquet files, as Hugging Face's `datasets` writes them: the same images as those of the folder."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import png

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.sources import parquet
from fastconv.system.errors import InputError

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
NAMES = ("cat", "dog", "11")


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (90, 24, 24, 3), np.uint8), np.arange(90) % 3


def write(path, images, labels, columns=None, **settings):
    """As Hugging Face writes it: a struct of bytes and path, and numbers whose names are in the file's metadata."""
    told = (
        '{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "11"],'
        ' "_type": "ClassLabel"}}}}'
    )
    cells = [None if image is None else {"bytes": png(image), "path": f"{at}.png"} for at, image in enumerate(images)]
    table = pa.table({"label": pa.array(labels, pa.int64()), "image": cells} | (columns or {}))
    pq.write_table(table.replace_schema_metadata({"huggingface": told}), path, **{"row_group_size": 7, **settings})
    return str(path)


def test_the_images_of_a_folder_are_the_same_in_parquet_files(tmp_path, pictures):
    images, labels = pictures
    for part, rows in (("train", range(60)), ("test", range(60, 90))):
        for at in rows:
            folder = tmp_path / "folder" / part / NAMES[labels[at]]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{at}.png").write_bytes(png(images[at]))
    write(tmp_path / "train-0.parquet", images[:20], labels[:20])
    write(tmp_path / "train-1.parquet", images[20:60][::-1], labels[20:60][::-1])
    test = write(tmp_path / "test.parquet", images[60:], labels[60:])
    found = [
        load(Dataset(name="own", source="image_folder", root=str(tmp_path / "folder")), tmp_path / "a"),
        load(Dataset(name="own", source="parquet", train=f"{tmp_path}/train-*.parquet", test=test), tmp_path / "b"),
    ]
    assert len({(train.digest, test.digest, train.classes) for train, test in found}) == 1
    assert found[0][0].classes == ("11", "cat", "dog")


WRITTEN = {
    "one row group": {"row_group_size": 1000},
    "pages": {"row_group_size": 25, "data_page_size": 3000, "write_batch_size": 4, "data_page_version": "2.0"},
    "zstd": {"compression": "zstd", "use_dictionary": False},
    "gzip": {"compression": "gzip", "data_page_version": "2.0"},
    "none": {"compression": "none", "row_group_size": 1, "write_page_index": True},
    "delta": {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY", "image.path": "PLAIN",
                                                           "label": "DELTA_BINARY_PACKED"}},
    "delta of lengths": {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY",
                                                                      "image.path": "DELTA_BYTE_ARRAY"}},
}  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_a_file_has_the_same_images_however_it_is_written(tmp_path, pictures, written):
    images, labels = list(pictures[0]), pictures[1].tolist()
    images[40], images[41], labels[50] = images[39], None, None  # one twice, one missing, and a missing label
    path = write(tmp_path / "a.parquet", images, labels, **WRITTEN[written])
    unreadable = []
    rows = list(parquet._rows(parquet._opened(Path(path), "train"), "image", "label", unreadable))
    expected = [at for at in range(90) if at not in (41, 50)]
    assert [(name, label, content) for name, label, content in rows] == [
        (f"{path}: row {at}", NAMES[labels[at]], png(images[at])) for at in expected
    ]
    assert [name for name, _ in unreadable] == [f"{path}: row 41", f"{path}: row 50"]


def test_categories_large_bytes_and_empty_files_are_read(tmp_path, pictures):
    """As pandas writes labels of few values, and polars bytes; a part of a data set may have no rows."""
    cells = [png(image) for image in pictures[0]]
    labels = pa.array([NAMES[at] for at in pictures[1]]).dictionary_encode()
    table = pa.table({"image": pa.array(cells, pa.large_binary()), "label": labels})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    pq.write_table(table[:0], tmp_path / "b.parquet")
    train, test = load(Dataset(name="own", source="parquet", train=f"{tmp_path}/*.parquet"), tmp_path / "data")
    assert len(train) + len(test) == 90
    assert train.classes == ("11", "cat", "dog")
    expected = {(image.tobytes(), NAMES[label]) for image, label in zip(*pictures, strict=True)}
    found = {(image.tobytes(), train.classes[label]) for part in (train, test)
             for image, label in zip(part.images, part.labels, strict=True)}  # fmt: skip
    assert found == expected


def test_rows_without_an_image_or_a_label_are_told_of(tmp_path, pictures):
    images, labels = list(pictures[0][:30]), pictures[1][:30].tolist()
    images[3], labels[4], labels[5] = None, None, -1
    given = Dataset(name="own", source="parquet", train=write(tmp_path / "a.parquet", images, labels, {"x": range(30)}))
    train, test = load(given, tmp_path / "data")
    assert len(train) + len(test) == 27
    assert "1 of 30 images cannot be read, such as" in train.note
    assert "row 3 (no image in its row)" in train.note
    assert "2 of 30 images have no label, such as" in train.note
    assert "a.parquet has columns that are not used: x" in train.note
    # The file is another one now, and is read again.
    write(tmp_path / "a.parquet", pictures[0][:30], pictures[1][:30])
    assert sum(map(len, load(given, tmp_path / "data"))) == 30


def test_named_columns_are_used(tmp_path, pictures):
    images, labels = pictures
    path = write(tmp_path / "a.parquet", images, labels, {"coarse": [["x", "y"][at % 2] for at in range(90)]})
    train, _ = load(Dataset(name="own", source="parquet", train=path, label_column="coarse"), tmp_path / "data")
    assert train.classes == ("x", "y")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            {"image": [b"x"] * 4, "photo": [b"y"] * 4, "label": [0, 1, 0, 1]},
            r"several columns may have the images \(ima",
        ),
        ({"image": [b"x"] * 4, "label": [0, 1, 0, 1], "class": [0, 1, 0, 1]}, r"may have the labels \(label, class\);"),
        (
            {"image": ["a.png"] * 4, "label": [[0], [1], [0], [1]]},
            "no column has the labels; its columns are image, label",
        ),
        (
            {"image": ["a.png"] * 4, "label": [0, 1, 0, 1]},
            "the column image has no images but other values: give their",
        ),
        ({"a": ["a.png"] * 4, "label": [0, 1, 0, 1]}, r"no column has the images; .* dataset.image_column=NAME"),
        ({"image": [{"bytes": None, "path": "a"}] * 2, "label": [0, 1]}, "no column has the images"),
        ({"image": pa.array([None, None], STRUCT), "label": [0, 1]}, "row 0 has no image in its row, and so has every"),
        ({"image": pa.array([{"path": "a"}] * 2, STRUCT), "label": [0, 1]}, "row 0 has the path of an image alone"),
        ({"image": [b"x"] * 4, "label": [0, 0, 0, 0]}, "has a single label, 0"),
        ({"image": [b"x"] * 4, "label": [0, 1, 0, 1]}, r"none of 4 images of own can be read, .* \(not an image\)"),
    ],
)
def test_other_tables_are_one_line(tmp_path, columns, line):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=line) as told:
        load(Dataset(name="own", source="parquet", train=str(tmp_path / "a.parquet")), tmp_path / "data")
    assert "\n" not in str(told.value)


def test_files_that_are_none_are_one_line(tmp_path, pictures):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    for given, line in (
        (f"{tmp_path}/a.parquet", "a.parquet, which must be a parquet file"),
        (str(tmp_path), "is no file: give parquet files"),
        (f"{tmp_path}/b*.parquet", "matches no file"),
        ("https://example.org/a.parquet", "is a URL"),
        (None, "dataset.train is not set"),
    ):
        with pytest.raises(InputError, match=line):
            load(Dataset(name="own", source="parquet", train=given), tmp_path / "data")
    path = write(tmp_path / "c.parquet", *pictures)
    content = bytearray((tmp_path / "c.parquet").read_bytes())
    content[200:20_000] = bytes(19_800)  # the columns are damaged, what tells of them is not
    (tmp_path / "c.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*c.parquet"):
        load(Dataset(name="own", source="parquet", train=path), tmp_path / "data")


def test_without_pyarrow_a_line_says_what_to_install(tmp_path, pictures, monkeypatch):
    path = write(tmp_path / "a.parquet", *pictures)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = r"^dataset.train=.*a.parquet needs the package pyarrow \(.*\): pip install 'fastconv\[parquet\]'$"
    with pytest.raises(InputError, match=line):
        load(Dataset(name="own", source="parquet", train=path), tmp_path / "data")
