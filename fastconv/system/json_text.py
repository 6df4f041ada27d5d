"""The text of every JSON file and line that fastconv writes, in one place, so that any reader accepts it; and reading
JSON that somebody else may have written."""

import hashlib
import json
import math
from typing import Any


def as_json(value: Any, indent: int | None = None, ascii_only: bool = True) -> str:
    """The JSON text of a value of dicts, lists and plain values, numpy's numbers among them.

    Args:
        indent: spaces of each level, on lines of their own; None for one line.
        ascii_only: write other characters as escapes.

    Numbers that are not finite become null: `NaN` and `Infinity`, which Python writes by default, are not JSON. Raises
    TypeError for a value of another type.
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, and for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it has too many levels") from None


def json_digest(value: Any) -> str:
    """16 hex digits of the sha256 of a value's JSON, with the keys of its dicts in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that it has twice: readers do not agree on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a number of numpy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
