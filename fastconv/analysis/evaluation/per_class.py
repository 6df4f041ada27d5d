"""Classes one by one, from images counted by label and answer: what a few large classes cannot hide."""

import numpy as np

# The largest class has so many times as many images as the smallest, or more: accuracy says little of the small ones.
UNEVEN = 1.5


def by_class(confusion: np.ndarray) -> list[dict[str, float]]:
    """Of each class: images, precision, recall and F1; what has no image, or was never said, is nan.

    Args:
        confusion: images by label and answer, int64 [classes, classes].
    """
    hits, labelled, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    rows = []
    for hit, images, times in zip(hits.tolist(), labelled.tolist(), said.tolist(), strict=True):
        precision, recall = (hit / times if times else float("nan")), (hit / images if images else float("nan"))
        both = images + times
        rows.append({"images": images, "precision": precision, "recall": recall,
                     "f1": 2 * hit / both if both else float("nan")})  # fmt: skip
    return rows


def balanced_accuracy(confusion: np.ndarray) -> float:
    """The mean recall of the classes that have images."""
    return float(np.nanmean([row["recall"] for row in by_class(confusion)]))


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 of the classes."""
    return float(np.nanmean([row["f1"] for row in by_class(confusion)]))


def is_uneven(counts: np.ndarray) -> bool:
    """Whether some of the classes, of so many images each, int64 [classes], are much larger than others."""
    return bool(counts.max() >= UNEVEN * max(1, counts.min()))
