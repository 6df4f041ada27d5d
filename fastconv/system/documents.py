"""Small JSON and YAML files of plain values, which somebody else may have written."""

import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from fastconv.system.errors import InputError, message_of
from fastconv.system.files import read_file
from fastconv.system.json_text import from_json

# Bytes, levels of nesting and size of whole numbers that no file of ours comes near.
MOST_BYTES = 4 * 2**20
MOST_LEVELS = 32
MOST_NUMBER = 2**63
# Keys and values of a YAML file. A config has some 150; OmegaConf takes a second for this many, and minutes for ten
# times as many.
MOST_VALUES = 3000
# Types whose values need no check: most values of a run's results are such.
ALWAYS_PLAIN = frozenset({float, bool, type(None)})
T = TypeVar("T")
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
        level = values = 0
        for event in yaml.parse(text, Loader=LOADER):  # without recursion, unlike loading
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases")
            values += isinstance(event, yaml.NodeEvent)
            if values > MOST_VALUES:
                raise ValueError(f"it has more than {MOST_VALUES:,} keys and values")
            level += isinstance(event, yaml.CollectionStartEvent)
            level -= isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise ValueError(f"it has more than {MOST_LEVELS} levels")
        content = yaml.load(text, LOADER)
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise ValueError(message_of(error)) from error
    _check(content)
    return content


def record_of(kind: type[T], content: Any) -> T:
    """An instance of a dataclass of numbers, truths and texts, from the content of a file.

    Raises ValueError for fields that are missing or unknown, of another type than declared, or numbers that are not
    finite or below zero.
    """
    types, declared = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]
    needed = {field.name for field in declared if field.default is MISSING}
    if not isinstance(content, dict) or not needed <= content.keys() <= {field.name for field in declared}:
        raise ValueError(f"this is no {kind.__name__}")
    for name, value in content.items():
        if type(value) is not types[name] and not (types[name] is float and type(value) is int):
            raise ValueError(f"{name} is of type {type(value).__name__}")
        if isinstance(value, int | float) and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}")
    return kind(**content)


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
            if type(each) not in ALWAYS_PLAIN:
                _check(each, level + 1)
    elif isinstance(value, list):
        for each in value:
            if type(each) not in ALWAYS_PLAIN:
                _check(each, level + 1)
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError("it has a text with a zero byte")
    elif isinstance(value, int):
        if not -MOST_NUMBER <= value < 2 * MOST_NUMBER:
            raise ValueError(f"it has a number of {value.bit_length()} bits")
    elif value is not None and not isinstance(value, float):
        raise ValueError(f"it has a value of type {type(value).__name__}")
