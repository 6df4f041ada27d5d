"""Settings as dataclass fields: each declares its default, its range and its options in one place.

A field's doc is its help. Nothing here imports torch, so a wrong command line is refused at once.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastconv.system.errors import InputError, nearest

T = TypeVar("T")

# The value of a setting that must be given, as OmegaConf marks it.
MISSING: Any = "???"

_RANGE, _OPTIONS, _PATH, _TEXT, _LOCAL = "range", "options", "path", "text", "local"

# What YAML makes of these words if they have no quotes.
YAML_WORDS = {"True": "on", "False": "off"}
# The beginning of an interpolation, in which OmegaConf would put another value.
INTERPOLATION = "${"
NOT_PLAIN = "a setting cannot have ${ in its text, not even in a path: rename the folder, or link to it"
# The beginning of a URL, such as s3:// or simplecache::s3://, and of one that lacks a slash, but not of C:/.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*(://|(?<=[^:]{2}):/)")


@dataclass(frozen=True)
class Range:
    """An interval of numbers that can describe itself: `Range("a share", 0, 1, closed="left")` is "a share in [0, 1)".

    Every numeric setting has one. A value that is not finite, or uselessly large, is refused in one line, and does not
    cause a crash or a network of nan.
    """

    noun: str
    low: float
    high: float
    closed: Literal["both", "left", "right", "neither"] = "both"
    note: str = ""
    """Text after the interval, such as ", or null for no limit"."""

    def __contains__(self, number: float) -> bool:
        above = self.low <= number if self.closed in ("both", "left") else self.low < number
        return above and (number <= self.high if self.closed in ("both", "right") else number < self.high)

    def __str__(self) -> str:
        opening = "[" if self.closed in ("both", "left") else "("
        closing = "]" if self.closed in ("both", "right") else ")"
        return f"{self.noun} in {opening}{_written(self.low)}, {_written(self.high)}{closing}{self.note}"


SHARE = Range("a share", 0, 1, closed="left")
CHANCE = Range("a chance", 0, 1)
POSITIVE = Range("a number", 0, 1000, closed="right")
MOMENTUM = Range("a number", 0, 1, closed="left")
SEED = Range("a whole number", 0, 2**63, closed="left")
BATCH = Range("a whole number of images", 2, 2**20, note=": one image has no statistics")
EPOCHS = Range("a number of epochs", 0, 1e6, closed="right", note=", or null for no bound")
PIXELS = Range("a number of pixels", 0, 10_000)


def setting(
    default: T,
    within: Range | None = None,
    options: Sequence[str] | None = None,
    path: bool = False,
    text: bool = False,
    local: bool = False,
) -> T:
    """A dataclass field with a default and the values that it allows.

    Args:
        default: the default value; a list is copied for each instance.
        within: the range of a number, or of each number in a list.
        options: the words that a string, or each string in a list, may be. With a range, a number or one of the words.
        path: it is a path, or a list of paths.
        text: it is a text, or a list of texts, if its type does not say so.
        local: whether a string, or each string in a list, is a file or folder on this machine, and no URL.
    """
    metadata = {_RANGE: within, _OPTIONS: options, _PATH: path, _TEXT: text, _LOCAL: local}
    if isinstance(default, list):
        made: T = dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
        return made
    return dataclasses.field(default=default, metadata=metadata)


def range_of(field: "dataclasses.Field[Any]") -> Range | None:
    """The range of a field's numbers; None if it has none."""
    found: Range | None = field.metadata.get(_RANGE)
    return found


def options_of(field: "dataclasses.Field[Any]") -> Sequence[str]:
    """The words that a field allows; empty if it allows any."""
    return field.metadata.get(_OPTIONS) or ()


def is_path(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field is a path, or a list of paths."""
    return bool(field.metadata.get(_PATH))


def is_text(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field is declared as text, or a list of texts, beyond its type. Every path is text."""
    return bool(field.metadata.get(_TEXT)) or is_path(field)


def check_settings(instance: Any, prefix: str = "") -> None:
    """Check every setting of a dataclass, and of the dataclasses in it, against its range or options.

    Args:
        instance: the dataclass instance to check.
        prefix: prefix of its keys in messages, such as `methods.grad_cam.`.

    Raises InputError, naming the key, for the first value that is not allowed.
    """
    for field in dataclasses.fields(instance):
        key, value = f"{prefix}{field.name}", getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            check_settings(value, f"{key}.")
        for each in value if isinstance(value, list) else [value]:
            _check_value(key, value, each, field)


def check_local(key: str, value: object) -> None:
    """Raise InputError for a URL as the value of a key that takes a file or folder on this machine."""
    if is_url(value):
        raise InputError(
            f"{key}={value} is not possible: give a file or folder on this machine: mount the server, or copy the"
            " files afterwards"
        )


def is_url(value: object) -> bool:
    """Whether a setting is a URL, or was meant to be one: as a path, `s3:/bucket` would be a folder called `s3:`."""
    return isinstance(value, str) and _URL.match(value) is not None


def check_plain(key: str, value: object) -> None:
    """Raise InputError, naming the key, for a value of a run, or one nested in it, that has `${` in it.

    A run stores its settings as plain values, and opens none that could be an interpolation (`config.store.stored`).
    """
    if (found := interpolated(key, value)) is not None:
        at, text = found
        raise InputError(f"{at}={text} is not possible: {NOT_PLAIN}")


def interpolated(key: str, value: object) -> tuple[str, object] | None:
    """The first key and value with `${`, among a value and those nested in it; None if there is none."""
    if INTERPOLATION in key:
        return key, value
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        nested = (interpolated(f"{key}.{name}" if key else str(name), each) for name, each in pairs)
        return next((found for found in nested if found is not None), None)
    # Not as written: YAML has escapes.
    return (key, value) if INTERPOLATION in (value if isinstance(value, str) else repr(value)) else None


def data_folder(otherwise: Any) -> Any:
    """The folder of the data sets that FASTCONV_DATA names. A leading ~ is the user's home, as in paths on a command
    line: a notebook or a service sets the variable without a shell, which would replace it."""
    given = os.environ.get("FASTCONV_DATA")
    return otherwise if given is None else os.path.expanduser(given)


def check_option(key: str, value: object, options: Sequence[str]) -> None:
    """Raise InputError, with the nearest option, for a word that is not among the options of a key."""
    if value not in options:
        word = YAML_WORDS.get(str(value))
        meant = f"; did you mean {word} (in a file: '{word}')?" if word in options else nearest(str(value), options)
        raise InputError(f"{key}={value} is unknown{meant} Choose from: {', '.join(options)}")


def _check_value(key: str, value: object, each: object, field: "dataclasses.Field[Any]") -> None:
    """Check the value of a field, or one value of its list. The type of the field decides whether null is allowed."""
    if each is None:
        return
    within, options = range_of(field), options_of(field)
    is_word = isinstance(each, str) and each in options
    if within is not None and not is_word and not (isinstance(each, int | float) and each in within):
        raise InputError(f"{key}={value} is not possible: give {within}")
    if options and within is None:
        check_option(key, each, options)
    if field.metadata.get(_LOCAL):
        check_local(key, each)


def _written(number: float) -> str:
    """A bound as a person writes it: 2**32 and 1e6, but 10000."""
    if number >= 2**20 and number == int(number) and int(number).bit_count() == 1:
        return f"2**{int(number).bit_length() - 1}"
    return (
        f"{number:.15g}"
        if 0.001 <= number < 1e6 or not number
        else f"{number:.0e}".replace("e+0", "e").replace("e-0", "e-")
    )
