"""Names that become parts of paths, and text of unknown origin that is shown or written."""

import os

import pytest

from fastconv.system.errors import InputError
from fastconv.system.names import check_name, csv_cell, file_name, printable, valid_unicode


@pytest.mark.parametrize("name", ["mnist", "my photos (2024)", "写真", "café", "a.b", "x" * 200, "é" * 100, "$x", "-a"])
def test_names_that_can_be_folders(name):
    check_name("dataset.name", name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../../escape", "cannot have / or"),
        ("a/b", "cannot have / or"),
        ("a\\b", "cannot have / or"),
        ("/etc", "cannot have / or"),
        (".", "cannot begin with a dot"),
        ("..", "cannot begin with a dot"),
        (".hidden", "cannot begin with a dot"),
        ("", "give a name"),
        (" ", "give a name"),
        ("a ", "cannot begin or end with blanks"),
        ("a\nb", "cannot be seen"),
        ("a\0b", "cannot be seen"),
        ("abc\u202egpj", "cannot be seen"),
        ("caf\udce9", "not UTF-8"),
        ("x" * 201, "at most 200 bytes"),
        ("é" * 101, "at most 200 bytes"),
        ("sweeps", "has a folder of that name"),
    ],
)
def test_names_that_cannot(name, says):
    with pytest.raises(InputError, match=r"dataset\.name=") as error:
        check_name("dataset.name", name)
    assert says in str(error.value)
    str(error.value).encode()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["../../x", "..", "", "a/b", "\0", "caf\udce9", "x" * 999, "é" * 300, "$a\n<b>", ". ."]
)
def test_any_name_gives_a_file_of_this_folder(tmp_path, name):
    path = tmp_path / f"learning-{file_name(name)}.png"
    path.touch()
    assert list(tmp_path.iterdir()) == [path]
    assert file_name("mnist") == "mnist"


def test_text_that_is_not_unicode():
    assert valid_unicode("café") == "café"
    assert valid_unicode(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert valid_unicode("x\ud800y") == "x\\ud800y"
    assert valid_unicode("é".encode().decode("ascii", "surrogateescape")) == "é"  # as an ASCII locale reads it


def test_text_on_one_line():
    assert printable("a\nb\tc\x1b[31m") == "a\\nb\\tc\\x1b[31m"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    assert printable("写真 café שלום") == "写真 café שלום"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1", "+1.5", "-1e-3", "cat", "a=b", 3, -0.5, None, ""])
def test_other_cells_stay(value):
    assert csv_cell(value) == value
