"""Per-class precision, recall and F1 from a confusion matrix, and their means over classes."""

import numpy as np

# From this ratio of the largest to the smallest class on, accuracy says little of the small classes.
IMBALANCE = 1.5


def by_class(confusion: np.ndarray) -> list[dict[str, float]]:
    """Return images, precision, recall and F1 of each class; NaN where a class has no images or no predictions.

    Args:
        confusion: images by label and prediction, int64 [classes, classes].
    """
    correct, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    rows = []
    for true, images, times in zip(correct.tolist(), labelled.tolist(), predicted.tolist(), strict=True):
        precision, recall = (true / times if times else float("nan")), (true / images if images else float("nan"))
        both = images + times
        rows.append({"images": images, "precision": precision, "recall": recall,
                     "f1": 2 * true / both if both else float("nan")})  # fmt: skip
    return rows


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Return the mean recall of the classes that have images."""
    return float(np.nanmean([row["recall"] for row in by_class(confusion)]))


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 of the classes."""
    return float(np.nanmean([row["f1"] for row in by_class(confusion)]))


def kappa(confusion: np.ndarray) -> float:
    """Return Cohen's kappa (Cohen 1960): 1 if all predictions are right, 0 if no more are than by chance, or fewer.

    Chance is what labels and predictions of these frequencies agree on if they have nothing to do with each other.
    """
    images = int(confusion.sum())
    agreed = np.trace(confusion) / images
    by_chance = float(confusion.sum(1) @ confusion.sum(0)) / images**2
    return max(0.0, float((agreed - by_chance) / (1 - by_chance))) if by_chance < 1 else float(agreed)


def is_imbalanced(counts: np.ndarray) -> bool:
    """Say whether some classes have many more images than others; `counts` int64 [classes]."""
    return bool(counts.max() >= IMBALANCE * max(1, counts.min()))
