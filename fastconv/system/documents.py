"""Small JSON and YAML files of plain values, which somebody else may have written."""

from pathlib import Path
from typing import Any

import yaml

from fastconv.system.errors import InputError
from fastconv.system.files import read_file
from fastconv.system.json_text import from_json

# Bytes, levels of nesting and size of whole numbers that no file of ours comes near.
MOST_BYTES = 4 * 2**20
MOST_LEVELS = 32
MOST_NUMBER = 2**63
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError if it cannot be read, ValueError for content that is not plain and small."""
    content = from_json(_text(path))
    _check(content)
    return content


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values. Raises OSError if it cannot be read, ValueError for content that is not.

    Aliases are refused: a few lines of them stand for gigabytes.
    """
    text = _text(path)
    try:
        level = 0
        for event in yaml.parse(text, Loader=LOADER):  # without recursion, unlike loading
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases")
            level += isinstance(event, yaml.CollectionStartEvent)
            level -= isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise ValueError(f"it has more than {MOST_LEVELS} levels")
        content = yaml.load(text, LOADER)
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    _check(content)
    return content


def _text(path: Path) -> str:
    try:
        return read_file(path, MOST_BYTES).decode()
    except InputError as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error


def _check(value: Any, level: int = 0) -> None:
    """Raise ValueError for a value that is not plain: nested deeply, of another type, or a number without end."""
    if level > MOST_LEVELS:
        raise ValueError(f"it has more than {MOST_LEVELS} levels")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str | int | float | bool):
                raise ValueError(f"it has a key of type {type(key).__name__}")
            _check(key, level)
            _check(each, level + 1)
    elif isinstance(value, list):
        for each in value:
            _check(each, level + 1)
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError("it has a text with a zero byte")
    elif isinstance(value, int):
        if not -MOST_NUMBER <= value < 2 * MOST_NUMBER:
            raise ValueError(f"it has a number of {value.bit_length()} bits")
    elif value is not None and not isinstance(value, float):
        raise ValueError(f"it has a value of type {type(value).__name__}")
