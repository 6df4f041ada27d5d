"""What fastconv writes as JSON is JSON: readers in other languages accept it."""

import json
import re

import numpy as np
import pytest
from harness import REPOSITORY

from fastconv.system.json_text import as_json, from_json


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def strictly(text: str) -> object:
    """Parse it as other languages do, which know no NaN and no Infinity."""
    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_become_null():
    nan, inf = float("nan"), float("inf")
    value = {"a": [nan, (inf, -inf), {"b": nan}], "c": np.float32("nan"), "d": np.int64(3), "e": np.float64(0.5)}
    assert strictly(as_json(value)) == {"a": [None, [None, None], {"b": None}], "c": None, "d": 3, "e": 0.5}
    assert as_json([1.5, True, None, "é"], ascii_only=False) == '[1.5, true, null, "é"]'
    assert strictly(as_json({"x": nan}, indent=1)) == {"x": None}


def test_other_values_are_refused():
    with pytest.raises(TypeError):
        as_json({"a": object()})


def test_a_class_without_test_images_and_never_said():
    from fastconv.analysis.evaluation.metrics import Evaluation

    found = Evaluation(np.eye(3, dtype=np.float32)[[0, 1, 1, 0]], np.array([0, 1, 0, 0]), ("a", "b", "c"))
    row = strictly(as_json(found.summary()))["classes"][2]
    assert row == {"class": "c", "images": 0, "precision": None, "recall": None, "f1": None}


def test_nothing_else_writes_json():
    """Elsewhere JSON is only the text that a hash is taken of, or that processes of a run exchange."""
    for path in (REPOSITORY / "fastconv").rglob("*.py"):
        if path.name != "json_text.py":
            for line in path.read_text(encoding="utf-8").splitlines():
                assert not ("json.dump" in line and re.search(r"write|print|indent", line)), (path, line)


def test_json_without_end_is_refused():
    assert from_json(b'{"a": [1, null]}') == {"a": [1, None]}
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"a": '):
        with pytest.raises(ValueError, match=r"levels|Expecting"):
            from_json(text)
