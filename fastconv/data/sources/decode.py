"""Decodes image files of any size and mode, in parallel, to arrays of one size."""

import contextlib
import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fastconv.data.sources.formats import TOO_LARGE, heif_advice, open_image
from fastconv.data.sources.levels import Levels, ValueRange, is_deep, value_range
from fastconv.data.sources.pixels import orientation_of, to_array, whole_on_white
from fastconv.system.cores import core_count
from fastconv.system.errors import InputError

# Limits, in pixels, of an image_size that is chosen from the images.
SMALLEST, LARGEST = 24, 128
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
# Images, and bytes of their arrays, that a thread works on at a time: enough to make the cost of a task negligible.
TASK_IMAGES, TASK_BYTES = 64, 4 * 2**20
# Errors of the machine or its network, which say nothing of the file that meets them.
OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
              errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH)  # fmt: skip
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image to read: `name` says where it is from; `read` returns the bytes of its file, or the image itself.

    An image may be an array, uint8 [H, W] or [H, W, C].
    """

    name: str
    label: int
    read: Callable[[], bytes | Image.Image | np.ndarray]


class LazySamples(Sequence[Sample], ABC):
    """Samples that are made when they are asked for, since a million of them would fill the memory."""

    @abstractmethod
    def sample(self, at: int) -> Sample:
        """The sample at a place, counted from 0."""

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...

    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        if isinstance(at, slice):
            return [self.sample(each) for each in range(*at.indices(len(self)))]
        return self.sample(range(len(self))[at])


@dataclass(frozen=True)
class Decoded:
    """`images` uint8 [N, H, W, C], `labels` int64 [N] and `names`; (name, reason) of the files that cannot be read; and
    `hashes` of the images, uint64 [N], where they are known (fastconv.data.hashes)."""

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    unreadable: list[tuple[str, str]]
    hashes: NDArray[np.uint64] | None = None


@dataclass(frozen=True)
class Looked:
    """What the headers of images say, which are read before decoding.

    `sizes` are width and height, int64 [N, 2], of each readable image as displayed; `places`, int64 [N], where it is
    among the samples; `grey`, whether all are grey; `ranges`, the values of those of more than eight bits; `several`,
    names of those that have several frames or pages.
    """

    sizes: NDArray[np.int64]
    places: NDArray[np.int64]
    grey: bool
    ranges: list[ValueRange]
    several: list[str]


def look(samples: Sequence[Sample], on_images: Callable[[int], None]) -> Looked:
    """Read the headers of images, and the values of those of more than eight bits.

    Args:
        on_images: called with a number of images when that many more have been read.

    Raises InputError where the machine keeps a file from being read.
    """
    ranges: list[ValueRange] = []
    several: list[str] = []

    def header(sample: Sample) -> tuple[int, int, bool] | None:
        try:
            content = sample.read()
            if isinstance(content, np.ndarray):
                height, width, *channels = content.shape
                return width, height, channels in ([], [1])
            image = content if isinstance(content, Image.Image) else open_image(content)
            width, height = image.size
            turned = orientation_of(image) >= 5  # these EXIF orientations swap the sides
            if _has_frames(image):
                several.append(sample.name)
            if is_deep(image.mode):
                ranges.append(value_range(image))
            return (height, width, _is_grey(image.mode)) if turned else (width, height, _is_grey(image.mode))
        except Exception as error:  # decoding will report the reason
            _require_of_file(error, sample.name)
            return None

    def work(part: range) -> tuple[NDArray[np.int64], bool]:
        found = [(at, *each) for at in part if (each := header(samples[at]))]
        on_images(len(part))
        return np.array([each[:3] for each in found], np.int64).reshape(-1, 3), all(grey for *_, grey in found)

    parts = list(_in_order(work, len(samples), TASK_IMAGES))
    found = np.concatenate([np.empty((0, 3), np.int64), *(found for found, _ in parts)])
    return Looked(found[:, 1:], found[:, 0], all(grey for _, grey in parts), ranges, several)


def choose_size(sizes: NDArray[np.int64]) -> int:
    """Side of the arrays in pixels: the median of the images' shorter sides, within limits. `sizes` is int64 [N, 2]."""
    return int(min(max(round(float(np.median(sizes.min(1)))), SMALLEST), LARGEST))


def decode(
    samples: Sequence[Sample],
    size: int,
    grey: bool,
    on_images: Callable[[int], None],
    path: Path,
    levels: Levels,
    resize: str = "crop",
) -> Decoded:
    """Decode images and scale them to one size, in the order of the samples. See `to_array`.

    Args:
        size: side in pixels.
        grey: decode to one channel instead of three.
        on_images: called with a number of images when that many more have been decoded.
        path: a file to write the pixels to, which the returned images map.
        levels: how values of more than eight bits become bytes.
        resize: how images become square.

    Raises OSError if the file cannot be written, InputError where the machine keeps an image from being read.
    """
    shape = (size, size, 1 if grey else 3)
    kept: list[int] = []
    unreadable: list[tuple[str, str]] = []

    def work(part: range) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
        images = np.empty((len(part), *shape), np.uint8)
        read: list[int] = []
        failed: list[tuple[str, str]] = []
        for at in part:
            sample = samples[at]
            try:
                images[len(read)] = _decoded(sample, size, grey, levels, resize)
                read.append(at)
            except Exception as error:  # Pillow raises many kinds, and a file may contain anything
                _require_of_file(error, sample.name)
                failed.append((sample.name, reason_of(error, sample.name)))
        on_images(len(part))
        return images[: len(read)], read, failed

    with path.open("wb") as file:
        for images, read, failed in _in_order(work, len(samples), max(1, TASK_BYTES // int(np.prod(shape)))):
            file.write(images.data)
            kept += read
            unreadable += failed
    labels = np.array([samples[at].label for at in kept], np.int64)
    whole = (len(kept), *shape)
    mapped = np.memmap(path, np.uint8, "r", shape=whole) if kept else np.empty(whole, np.uint8)
    return Decoded(mapped, labels, [samples[at].name for at in kept], unreadable)


def whole_images(
    samples: Sequence[Sample], size: int, grey: bool, levels: Levels
) -> tuple[list[str], NDArray[np.uint8]]:
    """The names of the samples that can be read, and their images whole on white squares, uint8 [N, size, size, C]."""
    names, images = [], []
    for sample in samples:
        with contextlib.suppress(Exception):  # `decode` reports the reason
            images.append(whole_on_white(_opened(_content(sample)), size, grey, levels))
            names.append(sample.name)
    shape = (len(images), size, size, 1 if grey else 3)
    return names, np.array(images, np.uint8).reshape(shape)


def _decoded(sample: Sample, size: int, grey: bool, levels: Levels, resize: str = "crop") -> np.ndarray:
    content = _content(sample)
    as_wanted = (size, size) if grey else (size, size, 3)
    if isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.shape == as_wanted:
        return content[..., None] if grey else content
    return to_array(_opened(content), size, grey, levels, resize)


def _content(sample: Sample) -> bytes | Image.Image | np.ndarray:
    """The result of a sample's `read`; an array of one channel as [H, W]."""
    content = sample.read()
    return content[..., 0] if isinstance(content, np.ndarray) and content.shape[2:] == (1,) else content


def _opened(content: bytes | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    return content if isinstance(content, Image.Image) else open_image(content)


def _in_order(work: Callable[[range], Result], count: int, most: int) -> Iterator[Result]:
    """Yield the results of `work` for parts of the positions 0 to `count`, in their order, computed by some threads.

    Pillow releases the interpreter lock while it decodes. Few parts are in work at a time, so that they fit in memory.
    """
    threads = core_count()
    step = max(1, min(most, TASK_IMAGES, count // (8 * threads)))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, count, step):
                waiting.append(pool.submit(work, range(start, min(start + step, count))))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _require_of_file(error: Exception, name: str) -> None:
    """Raise InputError for an error of the machine: an image left out for it would be missed in every later run."""
    if isinstance(error, MemoryError):
        raise InputError(
            f"cannot read {name}: there is no memory left. Close other programs, give the job more, or make the image"
            " smaller"
        ) from error
    if isinstance(error, OSError) and error.errno in OF_MACHINE:
        raise InputError(f"cannot read {name}: {error.strerror}. This is no fault of the image: try again") from error


def why_unreadable(sample: Sample) -> str:
    """Why a sample cannot be decoded; empty if it can."""
    try:
        _decoded(sample, SMALLEST, False, Levels())
    except Exception as error:  # as in `decode`
        return reason_of(error, sample.name)
    return ""


def reason_of(error: Exception, name: str = "") -> str:
    """Why the image of a file of this name cannot be read, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return heif_advice([name]) or "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    if isinstance(error, InputError):
        return text
    if isinstance(error, FileNotFoundError):  # a link may lead nowhere
        return "it is not there"
    if isinstance(error, OSError) and error.strerror:  # its text would name the file again
        return error.strerror
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:200]


def _has_frames(image: Image.Image) -> bool:
    """Whether there are several frames or pages to see; MPO files, of phones, hold a photograph and its depth."""
    with contextlib.suppress(Exception):  # of a damaged file, whose first frame may be whole
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def _is_grey(mode: str) -> bool:
    return mode in GREY_MODES or mode.startswith("I;16")
