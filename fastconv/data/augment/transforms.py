"""The only definition of an augmented image: pixels moved and coloured as an epoch plan says.

Plain numpy, no randomness; only one of torchvision's policies (`auto_augment`) needs torch, and draws from the plan's
seeds.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastconv.data.augment.auto_augment import apply_auto
from fastconv.data.augment.plan import BRIGHTNESS_BITS, CONTRAST_BITS, EpochPlan

PAD_MODES = ("constant", "reflect")

# Pixels whose colour is changed at once: as 32-bit numbers, so many stay in a core's cache.
COLOUR_PIXELS = 2**17


def augment(images: np.ndarray, plan: EpochPlan, start: int, stop: int, fill: np.ndarray) -> np.ndarray:
    """Return positions [start, stop) of the planned epoch, uint8 [stop - start, H, W, C].

    Args:
        images: the training images, uint8 [N, H, W, C] (a memory map will do).
        plan: the epoch's decisions.
        start, stop: positions in the epoch.
        fill: colour of the constant padding, of what a policy uncovers, and of the cutout, uint8 [C].
    """
    rows = slice(start, stop)
    batch = images[plan.order[rows]]
    if plan.policy.crop.padding:
        batch = crop(batch, plan.crop_y[rows], plan.crop_x[rows], plan.policy.crop.padding, plan.policy.crop.mode, fill)
    flip = plan.flip[rows]
    if flip.any():
        mirror(batch, np.flatnonzero(flip))
    if plan.brightness is not None:
        jitter_color(batch, plan.brightness[rows], plan.contrast[rows])
    if plan.auto_seeds is not None:
        apply_auto(batch, plan.policy, plan.auto_seeds[rows], fill)
    if plan.policy.cutout.size:
        cut_out(batch, plan.cutout_y[rows], plan.cutout_x[rows], plan.policy.cutout.size, fill)
    return batch


def crop(batch: np.ndarray, y: np.ndarray, x: np.ndarray, padding: int, mode: str, fill: np.ndarray) -> np.ndarray:
    """Pad [B, H, W, C] on every side and cut each image's own [H, W] window at (y, x)."""
    n, height, width, channels = batch.shape
    if mode == "reflect":
        sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = np.pad(batch, sides, mode="reflect")
    else:
        # Filled as rows of bytes: assigning a colour to [.., C] slices walks pixel by pixel, five times as slowly.
        side = padding * channels
        border = np.tile(fill, width + 2 * padding)
        lines = np.empty((n, height + 2 * padding, len(border)), np.uint8)
        lines[:, :padding] = lines[:, -padding:] = border
        lines[:, padding:-padding, :side] = lines[:, padding:-padding, -side:] = border[:side]
        lines[:, padding:-padding, side:-side] = batch.reshape(n, height, width * channels)
        padded = lines.reshape(n, height + 2 * padding, width + 2 * padding, channels)
    # Every window of every image as one strided view whose rows are runs of width * channels bytes: picking one
    # window per image is then a single gather of long runs, an order of magnitude faster than moving pixels.
    image_step, row_step, pixel_step, byte_step = padded.strides
    places = 2 * padding + 1
    windows = as_strided(
        padded,
        shape=(n, places, places, height, width * channels),
        strides=(image_step, row_step, pixel_step, row_step, byte_step),
        writeable=False,
    )
    return windows[np.arange(n), y, x].reshape(n, height, width, channels)


def mirror(batch: np.ndarray, chosen: np.ndarray) -> None:
    """Mirror, in place, the chosen images (int64 [M]) left to right."""
    images = batch[chosen]
    mirrored = np.empty_like(images)
    for channel in range(images.shape[3]):  # reversing whole pixels at once is four times slower
        mirrored[..., channel] = images[:, :, ::-1, channel]
    batch[chosen] = mirrored


def jitter_color(batch: np.ndarray, brightness: np.ndarray, contrast: np.ndarray) -> None:
    """Change, in place, brightness and contrast of each image [H, W, C] by int64 [B] of the plan's units.

    In integers, which round alike everywhere.
    """
    one, unit = 2**CONTRAST_BITS, 2 ** (CONTRAST_BITS - BRIGHTNESS_BITS)
    pixels = batch.reshape(len(batch), -1)
    count = pixels.shape[1]
    sums = pixels.sum(axis=1, dtype=np.int64)
    # m + (v - m) (1 + c) + b = v (1 + c) + (b - m c), all in units of contrast: below 2**27, so that 32 bits do.
    factor = (one + contrast).astype(np.int32)
    offset = (brightness * unit - (2 * sums * contrast + count) // (2 * count)).astype(np.int32)
    step = max(1, COLOUR_PIXELS // count)
    for at in range(0, len(pixels), step):
        some = slice(at, at + step)
        changed = np.multiply(pixels[some], factor[some, None], dtype=np.int32)
        changed += offset[some, None] + one // 2
        changed >>= CONTRAST_BITS
        batch[some] = np.clip(changed, 0, 255, out=changed).reshape(-1, *batch.shape[1:])


def cut_out(batch: np.ndarray, y: np.ndarray, x: np.ndarray, size: int, fill: np.ndarray) -> None:
    """Cover, in place, the square of `size` pixels whose corner is (y, x) in each image."""
    n, height, width, channels = batch.shape
    image_step, row_step, pixel_step, byte_step = batch.strides
    # As in `crop`: every square as rows of size * channels bytes, eight times as fast as pixel by pixel.
    squares = as_strided(
        batch,
        shape=(n, height - size + 1, width - size + 1, size, size * channels),
        strides=(image_step, row_step, pixel_step, row_step, byte_step),
    )
    squares[np.arange(n), y, x] = np.tile(fill, size)
