"""Turns an opened image of any size and mode into an array of one size, in training and prediction alike."""

import contextlib
import threading

import numpy as np
from PIL import Image, ImageOps

from fastconv.data.sources.levels import STRIP_PIXELS, Levels, is_deep, levels_of_image, to_bytes

ORIENTATION = 0x0112  # EXIF's tag
# What makes an image of each orientation upright. Pillow's `exif_transpose` writes the other tags anew too, and fails
# for those that are wrong, such as a resolution as text.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = 255  # the level behind transparent pixels
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa")
# Images of more pixels are decoded one at a time, and of still more are reduced by whole factors first: each takes up
# to a gigabyte.
ALONE, REDUCED = 2**26, 2**27
_ALONE = threading.Lock()


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 also where the EXIF data is damaged, as other programs show such a photograph."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds for damaged EXIF data
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def to_array(
    image: Image.Image, size: int | tuple[int, int], grey: bool, levels: Levels | None = None, resize: str = "crop"
) -> np.ndarray:
    """One image as uint8 [size, size, C], or [height, width, C].

    It is rotated as its EXIF data says, put on white where it is transparent, and scaled by antialiased bicubic
    interpolation, unless it already has that size. Of an image with several frames or pages, this is the first.

    Args:
        image: of any size and mode.
        size: side in pixels; or height and width, which a user's own arrays may have.
        grey: give one channel instead of three.
        levels: how values of more than eight bits become bytes; None to decide by this image alone.
        resize: `crop` scales the shorter side to `size` and keeps the central square. `pad` scales the longer side to
            it, and puts the image into the middle of a square of its own mean colour. `squash` scales both sides to
            it. All give the same of a square image. A height and a width are reached in the same ways.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = _upright(image, max(height, width), grey, levels)
    if image.size == (width, height):
        return _as_array(image)
    if resize == "crop" or image.width * height == image.height * width:
        return _as_array(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    if resize == "squash":
        return _as_array(image.resize((width, height), Image.Resampling.BICUBIC))
    fitted = _fitted(image, height, width)
    # A colour that follows from the image alone: were it that of all images, a new one would change the pixels of the
    # others, by which runs know theirs again. After normalisation it is near zero, so that there is little to learn.
    colour = tuple(np.rint(_as_array(fitted).mean((0, 1))).astype(int).tolist())
    return _as_array(ImageOps.pad(fitted, (width, height), color=colour))


def whole_on_white(image: Image.Image, size: int, grey: bool, levels: Levels | None = None) -> np.ndarray:
    """An image as `to_array` reads it, whole and in the middle of a white square, to be looked at: uint8 [size, size,
    C]."""
    fitted = _fitted(_upright(image, size, grey, levels), size, size)
    return _as_array(ImageOps.pad(fitted, (size, size), color="white"))


def _upright(image: Image.Image, size: int, grey: bool, levels: Levels | None) -> Image.Image:
    """An image in the mode L or RGB, rotated as its EXIF data says; a very large one is made smaller, but not smaller
    than `size`."""
    pixels = image.width * image.height
    with _ALONE if pixels > ALONE else contextlib.nullcontext():
        step = 1
        orientation = orientation_of(image)
        if pixels > REDUCED:
            image.draft(None, (2 * size, 2 * size))  # a JPEG decodes to a smaller one at once
            if image.width * image.height > REDUCED:
                step = max(1, min(image.size) // (2 * size))
        image = _converted(image, "L" if grey else "RGB", step, levels)
    return image.transpose(UPRIGHT[orientation]) if orientation != 1 else image


def _as_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """A whole image, scaled so that it just fits into a height and a width; each of its sides is a pixel at least."""
    is_wide = image.width * height >= image.height * width
    most, longest = (width, image.width) if is_wide else (height, image.height)
    across, down = (max(1, round(most * side / longest)) for side in image.size)
    return image.resize((across, down), Image.Resampling.BICUBIC)


def _converted(image: Image.Image, mode: str, step: int, levels: Levels | None) -> Image.Image:
    """An image in the mode L or RGB, its sides divided by `step`; made in strips, so that a large one needs no further
    memory of its size."""
    image.load()
    factor = (levels or levels_of_image(image)).factor(image.mode) if is_deep(image.mode) else 1.0
    rows = max(1, STRIP_PIXELS // image.width // step) * step
    if step == 1 and rows >= image.height:
        return _convert(image, mode, factor)
    if step == 1 and image.mode == mode and "transparency" not in image.info:
        return image
    width, height = image.size
    whole = Image.new(mode, (-(-width // step), -(-height // step)))
    for top in range(0, height, rows):
        strip = _convert(image.crop((0, top, width, min(top + rows, height))), mode, factor)
        whole.paste(strip.reduce(step) if step > 1 else strip, (0, top // step))
    return whole


def _convert(image: Image.Image, mode: str, factor: float) -> Image.Image:
    if is_deep(image.mode):
        image = Image.fromarray(to_bytes(np.asarray(image), factor))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (BACKGROUND,) * 4), image)
    if image.mode == "LAB":  # Pillow converts it to RGB only
        image = image.convert("RGB")
    return image.convert(mode) if image.mode != mode else image
