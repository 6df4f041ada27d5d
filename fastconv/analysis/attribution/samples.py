"""The images that are explained: random ones of each class, errors and correct predictions of note, or files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.sources.formats import heif_advice, open_image
from fastconv.data.sources.levels import Levels
from fastconv.data.sources.pixels import to_array
from fastconv.system.errors import InputError
from fastconv.system.files import read_file

UNKNOWN = -1
# Kinds of samples, and their headings on a page.
KINDS = {
    "class": "Random images of each class",
    "error": "Most confident errors",
    "correct": "Least confident correct predictions",
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
        """Rows, int64, of an unbiased sample: images that were not chosen by the network's predictions."""
        return np.array([row for row, kind in enumerate(self.kinds) if kind in ("class", "file")], np.int64)


def choose(
    test: ImageData,
    predict: Callable[[np.ndarray], np.ndarray],
    per_class: int,
    errors: int,
    correct: int,
    candidates: int,
    seed: int,
    names: Callable[[np.ndarray], Sequence[str | None]] = lambda rows: [None] * len(rows),
) -> Samples:
    """Choose test images; the same for the same seed and network.

    Args:
        test: the test split.
        predict: class probabilities float [N, classes] of images uint8 [N, H, W, C].
        per_class: images drawn of each class, or as many as there are.
        errors, correct: numbers of the most confident errors and the least confident correct predictions.
        candidates: drawn test images among which those are chosen.
        seed: of the draws.
        names: of the files of rows, int64 [n], of the test split; None for an image without one.
    """
    order = np.random.default_rng(seed).permutation(len(test))
    labels = np.asarray(test.labels)
    rows = np.concatenate([order[labels[order] == label][:per_class] for label in range(len(test.classes))])
    kinds = ["class"] * len(rows)
    if errors or correct:
        drawn = np.sort(order[:candidates])
        probabilities = predict(test.images[drawn])
        confidence, predictions = probabilities.max(axis=1), probabilities.argmax(axis=1)
        is_correct = predictions == labels[drawn]
        for kind, count, among, key in (
            ("error", errors, ~is_correct, -confidence),
            ("correct", correct, is_correct, confidence),
        ):
            found = drawn[among][np.argsort(key[among], kind="stable")][:count]
            rows = np.concatenate([rows, found])
            kinds += [kind] * len(found)
    named = tuple(name or f"test image {row}" for name, row in zip(names(rows), rows, strict=True))
    return Samples(np.ascontiguousarray(test.images[rows]), labels[rows], named, tuple(kinds))


def read_files(
    paths: list[str], shape: tuple[int, int, int], levels: Levels | None = None, resize: str = "crop"
) -> Samples:
    """Read image files, in the colours and the size that a network takes (`to_array`).

    Raises InputError for a file that cannot be read as an image.
    """
    images = []
    for path in paths:
        try:
            images.append(to_array(open_image(read_file(Path(path))), shape[:2], shape[2] == 1, levels, resize))
        except FileNotFoundError as error:
            raise InputError(f"images={path} is not there: give files, such as images=[a.png,b.jpg]") from error
        except InputError as error:
            raise InputError(f"images={path} cannot be read as an image: {error}") from error
        except Exception as error:  # each of Pillow's readers has its own
            advice = heif_advice([path]) or "give a png, a jpeg or the like"
            raise InputError(f"images={path} cannot be read as an image: {advice}") from error
    return Samples(
        np.stack(images),
        np.full(len(images), UNKNOWN),
        tuple(Path(path).name for path in paths),
        ("file",) * len(images),
    )
