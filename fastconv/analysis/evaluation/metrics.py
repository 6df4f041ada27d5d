"""How good answers are: shares with their intervals, class by class, and whether they are as sure as they are right."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from fastconv.analysis.evaluation.per_class import balanced_accuracy, by_class, macro_f1

# Classes of which the likeliest are looked at for `top`.
TOP = 5
BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Answers to images: probabilities float [N, classes], labels int64 [N], and names of the classes."""

    probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @cached_property
    def said(self) -> np.ndarray:
        """The likeliest class of each image, int64 [N]."""
        return self.probabilities.argmax(1)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Images by label and answer, int64 [classes, classes]."""
        count = len(self.classes)
        return np.bincount(self.labels * count + self.said, minlength=count * count).reshape(count, count)

    @property
    def accuracy(self) -> float:
        return float((self.said == self.labels).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % interval (Wilson 1927)."""
        return wilson(int((self.said == self.labels).sum()), len(self.labels))

    def top(self, count: int = TOP) -> float:
        """Share of images whose label is among the likeliest classes."""
        best = np.argpartition(-self.probabilities, min(count, len(self.classes)) - 1, axis=1)[:, :count]
        return float((best == self.labels[:, None]).any(1).mean())

    @cached_property
    def per_class(self) -> list[dict[str, float]]:
        """Of each class: images, precision, recall and F1; what has no image, or was never said, is nan."""
        return by_class(self.confusion)

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return balanced_accuracy(self.confusion)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes."""
        return macro_f1(self.confusion)

    @cached_property
    def reliability(self) -> list[dict[str, float]]:
        """Images by how sure the network is of its answer, in equal bins of the probability: `images`, their mean
        probability `sure`, and the share of right answers `right`; empty bins are left out."""
        sure = self.probabilities.max(1)
        right = self.said == self.labels
        places = np.minimum((sure * BINS).astype(int), BINS - 1)
        return [
            {"images": int(here.sum()), "sure": float(sure[here].mean()), "right": float(right[here].mean())}
            for here in (places == at for at in range(BINS))
            if here.any()
        ]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of sure and right (Guo et al. 2017, arXiv 1706.04599)."""
        return sum(each["images"] * abs(each["sure"] - each["right"]) for each in self.reliability) / len(self.labels)

    def mistakes(self, count: int) -> np.ndarray:
        """The wrong answers that the network is surest of: their rows, int64 [<= count]."""
        wrong = np.flatnonzero(self.said != self.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(1), kind="stable")][:count]

    def summary(self) -> dict[str, object]:
        """All of it, for a file."""
        low, high = self.interval
        return {
            "images": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_interval": [low, high],
            f"top_{TOP}": self.top() if len(self.classes) > TOP else None,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "calibration_error": self.calibration_error,
            "reliability": self.reliability,
            "classes": [{"class": name, **row} for name, row in zip(self.classes, self.per_class, strict=True)],
            "confusion": self.confusion.tolist(),
        }


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of which `hits` of `count` were seen (Wilson 1927)."""
    z = ndtri((1 + level) / 2)
    share, spread = hits / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return float(middle - half), float(middle + half)
