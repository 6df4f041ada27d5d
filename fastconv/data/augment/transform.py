"""The interface of an augmentation, the random draws behind its decisions, and the registry of augmentations."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

# For each image an integer or a bool, or a row of them.
Drawn = NDArray[np.int64] | NDArray[np.bool_]
Images = NDArray[np.uint8]

# Purposes of the draws. Each has its own part of the counter space, so a new purpose does not change the others. The
# bytes of existing streams depend on these numbers; the purposes of all other draws are derived from their names.
PURPOSES = {
    "order": 0,
    "crop.y": 1,
    "crop.x": 2,
    "flip": 3,
    "cutout.y": 4,
    "cutout.x": 5,
    "color_jitter.brightness": 6,
    "color_jitter.contrast": 7,
    "auto": 8,
}


def purpose_of(name: str) -> int:
    """The purpose of a draw in the counter space: a fixed number, or a hash of its name in the upper 32 of 64 bits."""
    if name in PURPOSES:
        return PURPOSES[name]
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") | 1 << 63


def draw_words(seed: int, epoch: int, purpose: int, n: int) -> NDArray[np.uint64]:
    """Return `n` independent 64-bit words, uint64 [n], the same on every machine and numpy version.

    They are raw words of Philox. numpy guarantees these across versions, but not the values that `Generator` methods
    derive from them, and a stream must have the same bytes for everyone.
    """
    counter = np.array([0, 0, 0, purpose], dtype=np.uint64)
    words: NDArray[np.uint64] = np.random.Philox(
        key=np.array([seed, epoch], dtype=np.uint64), counter=counter
    ).random_raw(n)
    return words


def below(words: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Map words to integers in [0, bound), int64: the high half times the bound (bias below bound / 2**32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Draws:
    """Random draws of one transform for one epoch: pure functions of seed, epoch and the names of the draws.

    Element j of a draw belongs to image j of the training images, at any position in the epoch's order.
    """

    seed: int
    epoch: int
    samples: int
    """Number of training images, or of those in an epoch if it has some of them several times: the length of every
    draw."""
    height: int
    width: int
    """Size of an image, in pixels."""
    name: str
    """Name of the transform."""
    times: NDArray[np.int64]
    """How often each image came in earlier epochs, int64 [samples]: in every epoch, unless it skips some by turns."""

    def integers(self, bound: int, part: str = "") -> NDArray[np.int64]:
        """Integers drawn evenly from [0, bound), int64 [samples]; bound is at most 2**32.

        Args:
            part: name of the draw, for transforms with several draws.
        """
        return below(self._words(part), bound)

    def around_zero(self, limit: int, part: str = "") -> NDArray[np.int64]:
        """Integers drawn evenly from [-limit, limit], int64 [samples]."""
        return self.integers(2 * limit + 1, part) - limit

    def chances(self, probability: float, part: str = "") -> NDArray[np.bool_]:
        """True with a probability in [0, 1], bool [samples]; always False at 0 and always True at 1."""
        return (self._words(part) >> np.uint64(32)) < np.uint64(round(probability * 2**32))

    def at_epoch(self, epoch: int) -> "Draws":
        """The draws of another epoch."""
        return replace(self, epoch=epoch)

    def _words(self, part: str) -> NDArray[np.uint64]:
        purpose = purpose_of(f"{self.name}.{part}" if part else self.name)
        return draw_words(self.seed, self.epoch, purpose, self.samples)


@runtime_checkable
class Transform(Protocol):
    """An augmentation: `draw` decides how each image of an epoch changes, and `apply` changes the pixels.

    `draw` is called once for an epoch. `apply` is called for parts of the epoch, in several threads at once, and uses
    no randomness besides the draws.
    """

    def draw(self, draws: Draws) -> Drawn | None:
        """Draw a row for each of `draws.samples` training images, [samples] or [samples, K]; None to change nothing."""
        ...

    def apply(self, images: Images, drawn: Drawn, fill: Images) -> Images | None:
        """Change images uint8 [B, H, W, C] in place and return None, or return new ones of the same shape.

        Args:
            images: images of a part of an epoch, writable.
            drawn: the rows of these images, [B] or [B, K].
            fill: mean colour of the training images, uint8 [C].
        """
        ...


@runtime_checkable
class DeviceTransform(Transform, Protocol):
    """An augmentation that tensors on any device can be changed by, for `stream=device`."""

    def apply_on_device(self, images: "Tensor", drawn: "Tensor", fill: "Tensor") -> "Tensor":
        """Return images uint8 [B, H, W, C] with the very bytes that `apply` gives; those given may be changed.

        On a GPU it must not wait for a result: no `.item()`, no boolean masks as an index.

        Args:
            images: images of a part of an epoch.
            drawn: the rows of these images, [B] or [B, K], on the same device.
            fill: mean colour of the training images, uint8 [C], on the same device.
        """
        ...


T = TypeVar("T", bound=type[Transform])
# Transforms by the name of their settings, `augment.NAME`.
REGISTERED: dict[str, type[Transform]] = {}


def transform(name: str) -> Callable[[T], T]:
    """Register a frozen dataclass as `augment.NAME`. With the defaults of its fields it must change nothing."""

    def register(kind: T) -> T:
        REGISTERED[name] = kind
        return kind

    return register
