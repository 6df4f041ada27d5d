"""A setting has its range or its words beside its default."""

import math
from dataclasses import dataclass, field

import pytest

from fastconv.system.errors import InputError
from fastconv.system.settings import SHARE, Range, check_settings, setting


@dataclass
class Inner:
    shares: list[float] = setting([0.5], Range("shares", 0, 1, closed="neither"))


@dataclass
class Settings:
    rate: float | None = setting(1.0, Range("a number", 0, 1000, closed="right", note=", or null for none"))
    mode: str = setting("fast", options=("fast", "exact"))
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (SHARE, "a share in [0, 1)"),
        (Range("a number", 0, 2**32, closed="left"), "a number in [0, 2**32)"),
        (Range("a factor", 1e-6, 1000), "a factor in [1e-6, 1000]"),
        (Range("a share", 0.001, 0.999), "a share in [0.001, 0.999]"),
        (Range("a number", 0, 1e9, closed="right", note=", or null"), "a number in (0, 1e9], or null"),
        (Range("a number", 20, 100_000), "a number in [20, 100000]"),
    ],
)
def test_a_range_reads_as_it_is_written(interval, text):
    assert str(interval) == text


def test_the_ends_of_a_range():
    assert [number in SHARE for number in (-1e-9, 0, 0.5, 1, math.nan, math.inf)] == [False, True, True] + 3 * [False]
    assert [number in Range("a number", 0, 1, closed="neither") for number in (0, 0.5, 1)] == [False, True, False]


def test_what_fits_passes():
    check_settings(Settings())
    check_settings(Settings(rate=None))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Settings(rate=0), "a.rate=0 is not possible: give a number in (0, 1000], or null for none"),
        (Settings(mode="fats"), "a.mode=fats is unknown; did you mean fast? Choose from: fast, exact"),
        (Settings(inner=Inner([0.5, 2])), "a.inner.shares=[0.5, 2] is not possible: give shares in (0, 1)"),
        (Settings(rate="1"), "a.rate=1 is not possible: give a number in (0, 1000], or null for none"),
    ],
)
def test_what_does_not_fit_is_named(settings, line):
    with pytest.raises(InputError) as caught:
        check_settings(settings, prefix="a.")
    assert str(caught.value) == line


def test_a_default_list_is_not_shared():
    assert Inner().shares is not Inner().shares
