"""The images that are explained: some of each class, the network's surest mistakes and least sure hits, or files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastconv.data.dataset import ImageData
from fastconv.data.sources.decode import to_array
from fastconv.system.errors import InputError

UNKNOWN = -1
# Kinds of samples, and what a page calls them.
KINDS = {
    "class": "Some of each class",
    "mistake": "The surest mistakes",
    "hit": "The least sure hits",
    "file": "Your images",
}


@dataclass(frozen=True)
class Samples:
    """Images uint8 [N, H, W, C], labels int64 [N] (-1 if unknown), and of each a name and a kind out of `KINDS`."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def measured(self) -> np.ndarray:
        """Rows, int64, of a fair sample: the network's answers had no say in which images these are."""
        return np.array([row for row, kind in enumerate(self.kinds) if kind in ("class", "file")], np.int64)


def choose(
    test: ImageData,
    predict: Callable[[np.ndarray], np.ndarray],
    per_class: int,
    mistakes: int,
    hits: int,
    candidates: int,
    seed: int,
) -> Samples:
    """Choose test images; the same for the same seed and network.

    Args:
        test: the test split.
        predict: class probabilities float [N, classes] of images uint8 [N, H, W, C].
        per_class: images drawn of each class, or as many as there are.
        mistakes, hits: how many images of each kind, among `candidates` drawn ones.
        candidates: test images among which mistakes and hits are looked for.
        seed: of the draws.
    """
    order = np.random.default_rng(seed).permutation(len(test))
    labels = np.asarray(test.labels)
    rows = np.concatenate([order[labels[order] == label][:per_class] for label in range(len(test.classes))])
    kinds = ["class"] * len(rows)
    if mistakes or hits:
        looked_at = np.sort(order[:candidates])
        chances = predict(test.images[looked_at])
        sure, said = chances.max(axis=1), chances.argmax(axis=1)
        right = said == labels[looked_at]
        for kind, wanted, among, how_sure in (("mistake", mistakes, ~right, -sure), ("hit", hits, right, sure)):
            found = looked_at[among][np.argsort(how_sure[among], kind="stable")][:wanted]
            rows = np.concatenate([rows, found])
            kinds += [kind] * len(found)
    names = tuple(f"test image {row}" for row in rows)
    return Samples(np.ascontiguousarray(test.images[rows]), labels[rows], names, tuple(kinds))


def read_files(paths: list[str], shape: tuple[int, int, int]) -> Samples:
    """Read image files, in the colours and the size that a network takes.

    Raises InputError for a file that cannot be read as an image.
    """
    height, _, channels = shape
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(to_array(image, height, grey=channels == 1))
        except FileNotFoundError as error:
            raise InputError(f"images={path} is not there: give files, such as images=[a.png,b.jpg]") from error
        except Exception as error:  # each of Pillow's readers has its own
            raise InputError(f"images={path} cannot be read as an image: give a png, a jpeg or the like") from error
    return Samples(
        np.stack(images),
        np.full(len(images), UNKNOWN),
        tuple(Path(path).name for path in paths),
        ("file",) * len(images),
    )
