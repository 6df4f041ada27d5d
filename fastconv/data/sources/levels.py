"""How pixel values of more than eight bits become bytes: one rule for all images of a data set."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from fastconv.system.errors import InputError
from fastconv.system.wording import counted

# Rows of a large image that are converted at a time have about as many pixels.
STRIP_PIXELS = 2**22
# The largest values of a byte, and of 16 bits.
BYTE, SHORT = 255, 65_535


@dataclass(frozen=True)
class Levels:
    """The factors that turn pixel values of integers beyond eight bits, and of floats, into bytes.

    The rule for a data set follows from the largest value of all its images: integers are divided by 256 unless none
    is above 255; floats are multiplied by 255 if none is above 1, else treated as integers.
    """

    integers: float = 1 / 256
    floats: float = 255.0

    def factor(self, mode: str) -> float:
        """The factor for images of one of Pillow's modes that `is_deep`."""
        return self.floats if mode == "F" else self.integers

    def as_dict(self) -> dict[str, float]:
        """The factors as plain values, to be stored."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any) -> "Levels | None":
        """Read what `as_dict` gave; None for None. Raises KeyError, TypeError or ValueError for anything else."""
        if stored is None:
            return None
        factors = stored["integers"], stored["floats"]
        if any(not isinstance(factor, int | float) or not 0 < factor <= BYTE for factor in factors):
            raise ValueError("its factors of pixel values are not possible")
        return cls(*map(float, factors))


@dataclass(frozen=True)
class ValueRange:
    """The lowest and highest pixel value of an image, and whether they are floats."""

    floats: bool
    low: float
    high: float


def is_deep(mode: str) -> bool:
    """Whether the pixels of this mode of Pillow are more than bytes: integers of 16 or 32 bits, or floats."""
    return mode in ("I", "F") or mode.startswith("I;16")


def value_range(image: Image.Image) -> ValueRange:
    """Read the range of values of an image whose mode `is_deep`. Raises InputError for NaN and infinite values."""
    lows, highs = [], []
    for values in strips(image):
        _require_finite(values)
        if values.size:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return ValueRange(image.mode == "F", min(lows, default=0.0), max(highs, default=0.0))


def strips(image: Image.Image) -> Iterable[np.ndarray]:
    """Yield the values of an image [rows, W], some rows at a time: a copy of all would take as much memory again."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def levels_of_image(image: Image.Image) -> Levels:
    """The rule of runs before there was one for a data set: it follows from the image alone."""
    high = value_range(image).high
    alone = 1 / 256 if high > BYTE else 1.0
    return Levels(alone, alone)


def levels_of(ranges: Iterable[ValueRange]) -> Levels:
    """The rule for a data set, from the ranges of all its images that are deep."""
    ranges = list(ranges)
    integers = max((each.high for each in ranges if not each.floats), default=None)
    floats = max((each.high for each in ranges if each.floats), default=None)
    chosen = Levels()
    return Levels(
        chosen.integers if integers is None or integers > BYTE else 1.0,
        chosen.floats if floats is None or floats <= 1 else 1.0 if floats <= BYTE else chosen.integers,
    )


def _require_finite(values: np.ndarray) -> None:
    """Raise InputError for NaN and infinite values: only their owner knows what is to be seen there."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError("has values that are no numbers (NaN or infinite)")


def to_bytes(values: np.ndarray, factor: float) -> np.ndarray:
    """Turn pixel values [H, W] into bytes uint8 [H, W]; what is beyond black or white is cut.

    Raises InputError for NaN and infinite values.
    """
    if values.dtype.kind in "ui":  # without floats, which take eight times as much memory
        shifted = values >> 8 if factor == 1 / 256 else values
        quick: np.ndarray = shifted.clip(0, BYTE).astype(np.uint8)
        return quick
    _require_finite(values)
    scaled = values.astype(np.float64) * factor
    if factor > 1:  # floats that were bytes divided by 255 become what they were
        scaled = np.rint(scaled)
    cut: np.ndarray = scaled.clip(0, BYTE).astype(np.uint8)
    return cut


def describe(ranges: Iterable[ValueRange]) -> list[str]:
    """Say in sentences how the deep images of a data set become bytes, and what is lost."""
    ranges = list(ranges)
    levels, lines = levels_of(ranges), []
    for floats, kind in ((False, "integers of more than 8 bits"), (True, "floating-point values")):
        found = [each for each in ranges if each.floats is floats]
        if not found:
            continue
        low, high = min(each.low for each in found), max(each.high for each in found)
        factor = levels.floats if floats else levels.integers
        done = {1 / 256: "all are divided by 256", 255.0: "all are multiplied by 255", 1.0: "all stay as they are"}
        line = f"{counted(len(found), 'image has', 'images have')} {kind}, from {low:g} to {high:g}: {done[factor]}"
        if low < 0:
            line += "; negative values become black"
        if factor * high > BYTE + 1:
            line += f"; values above {BYTE / factor:,.0f} become white"
        elif factor == 1 / 256 and high < SHORT / 4:
            shades = int(high) // 256 + 1
            line += f"; that keeps {shades} of 256 shades: stretch them to {SHORT:,} to keep more"
        lines.append(line)
    return lines
