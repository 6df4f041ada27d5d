"""Decodes image files of any size and mode, in parallel, to arrays of one size."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastconv.data.sources.formats import TOO_LARGE, open_image
from fastconv.data.sources.pixels import orientation_of, to_array
from fastconv.system.errors import InputError

# Limits, in pixels, of an image_size that is chosen from the images.
SMALLEST, LARGEST = 24, 128
GREY_MODES = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True)
class Sample:
    """An image to read: `name` says where it is from; `read` returns the bytes of its file, or the image itself."""

    name: str
    label: int
    read: Callable[[], bytes | Image.Image]


@dataclass(frozen=True)
class Decoded:
    """`images` uint8 [N, H, W, C], `labels` int64 [N] and `names`, in the order that `decode` documents; and (name,
    reason) of the files that cannot be read."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    unreadable: list[tuple[str, str]]

    def take(self, rows: np.ndarray) -> "Decoded":
        """The images at `rows`, int64 [M]."""
        return Decoded(self.images[rows], self.labels[rows], [self.names[row] for row in rows], [])


def look(samples: Sequence[Sample], on_image: Callable[[], None]) -> tuple[list[tuple[int, int]], bool]:
    """Read the width and height of each readable image as displayed, and whether all are grey."""

    def header(sample: Sample) -> tuple[int, int, str] | None:
        try:
            image = _open(sample)
            width, height = image.size
            turned = orientation_of(image) >= 5  # these EXIF orientations swap the sides
            return (height, width, image.mode) if turned else (width, height, image.mode)
        except Exception:  # decoding will report the reason
            return None
        finally:
            on_image()

    with _threads() as pool:
        found = [each for each in pool.map(header, samples) if each]
    return [(width, height) for width, height, _ in found], all(_is_grey(mode) for *_, mode in found)


def choose_size(sizes: Sequence[tuple[int, int]]) -> int:
    """Side of the arrays in pixels: the median of the images' shorter sides, within limits."""
    return int(min(max(round(median(min(size) for size in sizes)), SMALLEST), LARGEST))


def decode(samples: Sequence[Sample], size: int, grey: bool, on_image: Callable[[], None]) -> Decoded:
    """Decode images and scale them to one size.

    An image is rotated as its EXIF data says, put on white where it is transparent, scaled so that its shorter side is
    `size` (by antialiased bicubic interpolation, unless it already has that size) and cropped to the central square.
    Images of 16 bits keep the upper eight.

    The order depends only on labels and pixels: the same images give the same arrays from every source.

    Args:
        size: side in pixels.
        grey: decode to one channel instead of three.
        on_image: called after each image.
    """

    def work(sample: Sample) -> np.ndarray | str:
        try:
            return to_array(_open(sample), size, grey)
        except Exception as error:  # Pillow raises many kinds, and a file may contain anything
            return reason_of(error)
        finally:
            on_image()

    with _threads() as pool:
        found = list(pool.map(work, samples))
    whole = [(sample, each) for each, sample in zip(found, samples, strict=True) if not isinstance(each, str)]
    unreadable = [(sample.name, each) for each, sample in zip(found, samples, strict=True) if isinstance(each, str)]
    whole.sort(key=lambda pair: (pair[0].label, pair[1].tobytes()))
    shape = (size, size, 1 if grey else 3)
    images = np.stack([image for _, image in whole]) if whole else np.empty((0, *shape), np.uint8)
    labels = np.array([sample.label for sample, _ in whole], np.int64)
    return Decoded(images, labels, [sample.name for sample, _ in whole], unreadable)


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    if isinstance(error, InputError):
        return text
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:200]


def _open(sample: Sample) -> Image.Image:
    content = sample.read()
    return content if isinstance(content, Image.Image) else open_image(content)


def _is_grey(mode: str) -> bool:
    return mode in GREY_MODES or mode.startswith("I;16")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1)  # Pillow releases the interpreter lock while it decodes
