"""Columns of images and labels are chosen where it is clear which they are; else a line names those it may be."""

import re

import pytest

from fastconv.data.sources.typed_columns import CLASSES, IMAGE, NEITHER, OTHER, PATH, TypedColumn, choose_columns
from fastconv.system.errors import InputError


def chosen(columns, **named):
    found = choose_columns([TypedColumn(*each) for each in columns.items()], "the table", how="Say it", **named)
    return found.image, found.label


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": IMAGE, "label": OTHER}, ("image", "label")),
        ({"odd": IMAGE, "kind": OTHER}, ("odd", "kind")),
        ({"odd": PATH, "kind": OTHER, "Unnamed: 0": OTHER, "split": OTHER}, ("odd", "kind")),
        ({"image": IMAGE, "mask": IMAGE, "label": OTHER}, ("image", "label")),
        ({"img": IMAGE, "file_name": PATH, "label": OTHER, "width": OTHER}, ("img", "label")),
        ({"path": PATH, "mask": PATH, "Class Name": OTHER, "x": OTHER, "y": OTHER}, ("path", "Class Name")),
        ({"image": OTHER, "label": OTHER}, ("image", "label")),
        ({"image": IMAGE, "kind": CLASSES, "width": OTHER, "words": NEITHER}, ("image", "kind")),
        ({"image": IMAGE, "x": NEITHER, "y": OTHER, "label": OTHER}, ("image", "label")),
        ({"image": IMAGE, "y": OTHER, "width": OTHER}, ("image", "y")),
    ],
)
def test_clear_columns_are_chosen(columns, expected):
    assert chosen(columns) == expected


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"path": PATH, "thumbnail": IMAGE, "label": OTHER}, "several columns may have the images (thumbnail, path)"),
        ({"odd": PATH, "odder": PATH, "label": OTHER}, "several columns may have the images (odd, odder)"),
        ({"odd": OTHER, "label": OTHER}, "no column has the images; its columns are odd, label"),
        ({"image": IMAGE, "file": PATH, "width": OTHER}, "several columns may have the labels (file, width)"),
        ({"image": IMAGE, "words": NEITHER, "kind": OTHER}, "several columns may have the labels (words, kind)"),
        ({"image": IMAGE, "kind": OTHER, "width": OTHER}, "several columns may have the labels (kind, width)"),
        ({"image": IMAGE, "x": OTHER, "y": OTHER}, "several columns may have the labels (x, y)"),
        ({"image": IMAGE, "label": OTHER, "source": CLASSES}, "several columns may have the labels (label, source)"),
        ({"image": IMAGE, "fine": CLASSES, "coarse": CLASSES}, "several columns may have the labels (fine, coarse)"),
        ({"image": IMAGE, "id": OTHER}, "no column has the labels; its columns are image, id"),
        ({"image": IMAGE, "index": OTHER}, "no column has the labels; its columns are image, index"),
        ({"image": IMAGE, "split": OTHER}, "no column has the labels; its columns are image, split"),
    ],
)
def test_others_are_refused_with_the_columns_that_may_be_meant(columns, line):
    with pytest.raises(InputError, match=f"^the table: {re.escape(line)}.*Say it$") as told:
        chosen(columns)
    assert "\n" not in str(told.value)
    if "(" in line:  # naming one of those that the line names is the way out
        what = "label" if "labels" in line else "image"
        name = line.partition("(")[2].partition(",")[0]
        assert name in chosen(columns, **{what: name})
