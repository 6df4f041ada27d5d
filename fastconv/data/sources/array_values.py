"""Images and labels of arrays, whatever their dtype and the order of their axes; or one line."""

import math

import numpy as np

from fastconv.data.sources.formats import MOST_PIXELS, TOO_LARGE
from fastconv.data.sources.labels import label_of
from fastconv.system.errors import InputError
from fastconv.system.memory import release_pages
from fastconv.system.wording import counted

# Numbers of channels that an image may have.
CHANNELS = (1, 3, 4)


def require_images(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Raise InputError, with `where` to say which array it is, for one whose shape is not that of images."""
    if len(shape) != 3 and (len(shape) != 4 or (shape[1] not in CHANNELS and shape[3] not in CHANNELS)):
        raise InputError(f"{where} of {dtype}, {shape_of(shape)}: give uint8, N x H x W (x 1, 3 or 4)")
    if 0 in shape:
        raise InputError(f"{where} of {dtype}, {shape_of(shape)}: there is no pixel in them")
    if math.prod(shape[1:]) > MOST_PIXELS:
        raise InputError(f"{where} of {dtype}, {shape_of(shape)}: an image has {TOO_LARGE}")


def as_images(array: np.ndarray, where: str) -> np.ndarray:
    """Images as whole numbers from 0 to 255 [N, H, W] or [N, H, W, C], of any dtype; not a copy.

    [N, C, H, W] are the same images. Raises InputError, with `where` to say which array it is, for other shapes, and
    for other values: those would have to be scaled by a guess.
    """
    require_images(array.shape, array.dtype, where)
    shape = shape_of(array.shape)
    if array.ndim == 4 and array.shape[3] not in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    if array.dtype == np.uint8:
        return array
    spread = ""
    if array.dtype.kind in "iuf":
        low, high = array.min(), array.max()
        release_pages(array)
        # A largest value of 1 is white in some arrays, and nearly black in others.
        if array.dtype.kind in "iu" and low >= 0 and high <= 255 and high != 1:
            return array
        spread = f", from {low:g} to {high:g}"
        if low != low:
            spread = f", with NaN in {counted(np.isnan(array).any((*range(1, array.ndim),)).sum(), 'image')}"
    raise InputError(f"{where} of {array.dtype}, {shape}{spread}: give uint8 from 0 to 255, N x H x W (x 1, 3 or 4)")


def as_labels(array: np.ndarray, where: str) -> list[str | None]:
    """Labels as text, None for those that are missing: of [N] or [N, 1], or of one-hot rows [N, K].

    Raises InputError, with `where` to say which array it is, for labels that are not one for each image.
    """
    if array.ndim > 1 and array.size == len(array):
        array = array.reshape(-1)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        whole = ((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()
        if not whole:
            raise InputError(
                f"{where} of {array.dtype}, {shape_of(array.shape)}, whose rows do not each have a single 1: give one"
                " label for each image"
            )
        array = array.argmax(1)
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise InputError(f"{where} of {array.dtype}, {shape_of(array.shape)}: give N labels, numbers or names")
    values = array.tolist()
    try:
        return [label_of(value.decode() if isinstance(value, bytes) else str(value)) for value in values]
    except UnicodeDecodeError as error:
        raise InputError(f"{where} that are not UTF-8: {error.object[:40]!r}") from error


def shape_of(shape: tuple[int, ...]) -> str:
    """A shape as in 60000x28x28."""
    return "x".join(map(str, shape)) or "a single value"
