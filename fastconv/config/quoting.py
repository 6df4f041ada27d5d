"""Overrides as texts: quoted for Hydra's grammar and for the shell."""

import re
import shlex
from collections.abc import Iterable

from fastconv.system.errors import InputError


def key_of(override: str) -> str:
    """The key of an override's text, without the `+`, `++` or `~` before it."""
    return override.partition("=")[0].lstrip("+~")


def quoted(text: object, quote: str = "'") -> str:
    """Quote a text for Hydra's grammar, which takes backslashes literally, except before a quote."""
    escaped = re.sub(rf"(\\*)({quote}|\Z)", lambda found: 2 * found[1] + (f"\\{quote}" if found[2] else ""), str(text))
    return f"{quote}{escaped}{quote}"


def literally(text: object) -> str:
    """Quote a text for Hydra's grammar so that a `${` in it stays text and is not an interpolation."""
    return quoted(re.sub(r"(?<!\\)(\\*)(?=\$\{)", lambda found: 2 * found[1] + "\\", str(text)))


def to_paste(key: str, value: str) -> str:
    """A part of a command that sets a key to a text with any characters: quoted for Hydra and for the shell."""
    return shlex.quote(f"{key}={quoted(value, chr(34))}")


def require_texts(name: str, example: str, overrides: Iterable[object]) -> None:
    """Raise InputError for an override in a Python call that is not a string.

    Args:
        name: of the function.
        example: a call with an override.
    """
    for each in overrides:
        if not isinstance(each, str):
            raise InputError(
                f"{name} takes other settings as strings, such as {example}: {str(each)[:60]!r} is a"
                f" {type(each).__name__}"
            )
