"""Images and labels of arrays, whatever their dtype and the order of their axes; or one line."""

import numpy as np

from fastconv.data.sources.labels import label_of
from fastconv.system.errors import InputError

CHANNELS = (1, 3, 4)


def as_images(array: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 [N, H, W] or [N, H, W, C].

    Whole numbers from 0 to 255 of another dtype, and [N, C, H, W], are the same images. Raises InputError, with `where`
    to say which array it is, for others: those would have to be scaled by a guess.
    """
    shape = shape_of(array)
    if array.ndim == 4 and array.shape[3] not in CHANNELS and array.shape[1] in CHANNELS:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim not in (3, 4) or array.shape[3:] not in ((), *((channels,) for channels in CHANNELS)):
        raise InputError(f"{where} of {array.dtype}, {shape}: give uint8, N x H x W (x 1, 3 or 4)")
    if not array.size:
        raise InputError(f"{where} of {array.dtype}, {shape}: there is no pixel in them")
    if array.dtype == np.uint8:
        return array
    spread = ""
    if array.dtype.kind in "iuf":
        low, high = array.min(), array.max()
        if array.dtype.kind in "iu" and low >= 0 and high <= 255:
            return array.astype(np.uint8)
        spread = f", with NaN in {np.isnan(array).any((*range(1, array.ndim),)).sum():,} images" if low != low else (
            f", from {low:g} to {high:g}"
        )  # fmt: skip
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
                f"{where} of {array.dtype}, {shape_of(array)}, whose rows have not one 1 each: give one label an image"
            )
        array = array.argmax(1)
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise InputError(f"{where} of {array.dtype}, {shape_of(array)}: give N labels, numbers or names")
    values = array.tolist()
    try:
        return [label_of(value.decode() if isinstance(value, bytes) else str(value)) for value in values]
    except UnicodeDecodeError as error:
        raise InputError(f"{where} that are not UTF-8: {error.object[:40]!r}") from error


def shape_of(array: np.ndarray) -> str:
    """A shape as in 60000x28x28."""
    return "x".join(map(str, array.shape)) or "a single value"
