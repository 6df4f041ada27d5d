"""Images as Python code hands them over, in many forms: made uint8 [H, W, C], or refused in one line."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastconv.data.image_rows import ImageRows
from fastconv.data.sources.array_values import CHANNELS, shape_of
from fastconv.data.sources.decode import reason_of
from fastconv.data.sources.formats import open_image
from fastconv.data.sources.levels import Levels
from fastconv.data.sources.pixels import to_array
from fastconv.system.errors import InputError
from fastconv.system.files import read_file

# A last axis that is shorter is one of channels, unless the network's images are as narrow.
NARROWEST = 8
AnyImage = str | Path | Image.Image | np.ndarray
Images = AnyImage | Iterable[AnyImage]


def sequence_of(given: Any, shape: tuple[int, int, int]) -> np.ndarray | Sequence[Any]:
    """One or many images as a sequence of images; arrays have the channels last, uint8 [N, H, W, C].

    Args:
        given: a path, an image of Pillow or an array [H, W] or [H, W, C], which is one image; an array or a tensor
            [N, H, W], [N, H, W, C] or [N, C, H, W]; or a list of such single images, of any sizes.
        shape: the images of the network, [H, W, C]. It decides what three dimensions mean if there are two ways.

    Raises InputError for anything else, and for values other than uint8.
    """
    if isinstance(given, str | Path | Image.Image) or hasattr(given, "read"):
        return [given]
    if isinstance(given, bytes | bytearray | dict) or not (hasattr(given, "__array__") or isinstance(given, Iterable)):
        raise InputError(
            f"images are {type(given).__name__}: give paths, images of Pillow or arrays uint8 [N, H, W, C]"
        )
    if not _is_array(given):
        return list(given)
    array = _as_array(given)
    if array.dtype.kind in "OUS" and array.ndim <= 1:  # of paths or images
        return array.reshape(-1).tolist()
    if array.size == 0 and array.ndim and len(array) == 0:
        return []
    require_bytes(array)
    return _channels_last(array, shape)


def pixels_of(
    image: Any, shape: tuple[int, int, int], at: int, levels: Levels | None = None, resize: str = "crop"
) -> np.ndarray:
    """One image of a sequence, in the size and the colours of the network, uint8 `shape`.

    Args:
        at: its place in the sequence, for errors.
        levels: how values of more than eight bits become bytes; None to decide by this image alone.
        resize: how images get the network's height and width (`to_array`).

    Raises InputError for one that cannot be read.
    """
    if _is_array(image):
        array = _as_array(image)
        require_bytes(array)
        image = Image.fromarray(_single(array, at))
    elif not (isinstance(image, str | Path | Image.Image) or hasattr(image, "read")):
        raise InputError(
            f"image {at} is {type(image).__name__}: give a path, an image of Pillow or an array uint8 [H, W, C]"
        )
    name = f"image {at}" if isinstance(image, Image.Image) else image
    if isinstance(image, str | Path) and Path(image).is_dir():
        raise InputError(f"{image} is a folder: give its files, or use python -m fastconv.predict images={image}")
    try:
        return to_array(_opened(image), shape[:2], shape[2] == 1, levels, resize)
    except FileNotFoundError as error:
        link = " a link to a file that is" if isinstance(image, str | Path) and Path(image).is_symlink() else ""
        raise InputError(f"{name} is{link} not there") from error
    except Exception as error:  # each of Pillow's readers has its own
        raise InputError(f"{name} cannot be read as an image: {reason_of(error, str(name))}") from error


def _opened(image: Any) -> Image.Image:
    """An image of Pillow, from a path or an open file if it is none."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        return open_image(read_file(Path(image)))
    with suppress(AttributeError, OSError):  # a file that cannot go back is read from where it is
        image.seek(0)
    return open_image(image.read())


def _is_array(given: Any) -> bool:
    """Whether it is an array or a tensor; Pillow's images, which can become arrays, are none."""
    return hasattr(given, "__array__") and hasattr(given, "dtype") and hasattr(given, "shape")


def _as_array(given: Any) -> np.ndarray:
    if isinstance(given, ImageRows):  # read by rows, like an array
        return given  # type: ignore[return-value]
    if hasattr(given, "detach"):  # a tensor, perhaps of a GPU
        given = given.detach().cpu()
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"images are {given.dtype}, which is no array of pixels: give uint8, 0 to 255") from error


def require_bytes(array: np.ndarray) -> None:
    """Raise InputError for values that are not bytes: only their owner knows which level is white."""
    if array.dtype == np.uint8:
        return
    if array.dtype.kind not in "biuf":
        raise InputError(f"images are of {array.dtype}: give uint8, 0 to 255")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    advice = "the pixels as they were before they were normalised"
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and low >= 0 and high <= 1):
        advice = "(255 * images).round().astype(np.uint8)"
    elif low >= 0 and high <= 255:
        advice = "images.round().astype(np.uint8)"
    elif array.dtype == np.uint16:
        advice = "(images // 257).astype(np.uint8) if they use all 16 bits"
    raise InputError(f"images are {array.dtype} from {low:g} to {high:g}: give uint8, 0 to 255, such as {advice}")


def _channels_last(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images [N, H, W, C] of an array that holds one or many."""
    shown = shape_of(array.shape)
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim == 4:
        if array.shape[3] in CHANNELS:
            return array
        if array.shape[1] in CHANNELS:
            return array.transpose(0, 2, 3, 1)
    if array.ndim == 3:
        if array.shape[2] in CHANNELS:
            return array[None]
        if array.shape[2] < NARROWEST and array.shape[2] != shape[1]:
            raise InputError(
                f"images are {shown}: this may be one image of {array.shape[2]} channels, or {len(array)} grey"
                f" ones. Give [H, W, C] with {', '.join(map(str, CHANNELS))} channels, or [N, H, W, 1]"
            )
        if array.shape[0] not in CHANNELS or shape[2] == 1:
            return array[..., None]
        if array.shape[0] == 1:
            return array.transpose(1, 2, 0)[None]
        raise InputError(
            f"images are {shown}: this may be one image with its channels first, or {len(array)} grey ones."
            " Give [N, H, W, C]"
        )
    raise InputError(f"images are {shown}: give [N, H, W, C] with {', '.join(map(str, CHANNELS))} channels")


def _single(array: np.ndarray, at: int) -> np.ndarray:
    """One image, [H, W] or [H, W, C], for Pillow."""
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    shown = shape_of(array.shape)
    if array.ndim == 2 and array.shape[1] in CHANNELS:  # as list(image) gives them
        raise InputError(f"image {at} is {shown}: this may be a row of an image. Give the image itself, without a list")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), *((count,) for count in CHANNELS)) or not array.size:
        raise InputError(f"image {at} is {shown}: give one image, [H, W, C], or [N, H, W, C] without a list")
    return np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)
