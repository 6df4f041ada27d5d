"""Small JSON and YAML files of somebody else: plain values, or a ValueError; never a crash, a hang or gigabytes."""

import os
from pathlib import Path

import pytest

from fastconv.system.documents import MOST_LEVELS, MOST_VALUES, read_json, read_yaml
from fastconv.system.names import csv_cell, printable

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels"),
        ('{"a":' * 100_000, "levels"),
        ("[" * 40 + "]" * 40, f"more than {MOST_LEVELS} levels"),
        ('{"steps": ' + "9" * 5000 + "}", "digits"),
        ('{"steps": 340282366920938463463374607431768211456}', "a number of 129 bits"),
        ('{"a": "\\u0000"}', "zero byte"),
        ('{"a": ', "Expecting value"),
        ("\x80", "Expecting value"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_not_plain(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels"),
        ("- " * 50_000, "levels"),
        ("".join(f"{' ' * level}a:\n" for level in range(300)), "levels"),
        (BOMB, "aliases"),
        ("a: &a\n  b: *a\n", "aliases"),
        ("a: !!python/object/apply:os.system ['touch harm']", "could not determine a constructor"),
        ("a: 0x" + "f" * 100, "a number of 400 bits"),
        ("a: 2024-01-15", "type date"),
        ("a: !!binary aGVsbG8=", "type bytes"),
        ("? [a, b]\n: c", "key"),
        ("a: [", "while parsing"),
        ("[" + "[], " * MOST_VALUES + "]", "more than 3,000 keys and values"),
        ("{" + "".join(f"a{at}: 1, " for at in range(MOST_VALUES // 2)) + "}", "more than 3,000 keys and values"),
        ("\ta: %", "cannot start any token"),
    ],
)
def test_yaml_that_is_not_plain(tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_yaml(Path("a.yaml"))
    assert os.listdir() == ["a.yaml"]


def test_not_text_and_not_regular_and_without_end(tmp_path):
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10 * 2**30)
    for name, reason in (("latin", "not text"), ("pipe", "a named pipe"), ("huge", "more than 4 MiB")):
        for read in (read_json, read_yaml):
            with pytest.raises(ValueError, match=reason):
                read(tmp_path / name)


def test_plain_values_are_read_as_they_are(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, null, true, 'x', {b: -9223372036854775808}]\n1: é\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, None, True, "x", {"b": -(2**63)}], 1: "é"}
    (tmp_path / "a.json").write_text('{"a": [NaN, 1e999]}')
    assert str(read_json(tmp_path / "a.json")) == "{'a': [nan, inf]}"


def test_text_is_printable():
    assert printable("a\x1b[31mred\x9b\n\u202egpj.exe") == "a\\x1b[31mred\\x9b\\n\\u202egpj.exe"
    assert printable("\ud800 \udce9") == "\\ud800 \\udce9"
    for plain in ("Größe", "猫", "गाय", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b"):
        assert printable(plain) == plain


@pytest.mark.parametrize("text", ["=1+1", "+1+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("a=1") == "a=1"
