"""Metrics of predictions: accuracy with its interval, per-class metrics, and calibration."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri, softmax

from fastconv.analysis.evaluation.per_class import balanced_accuracy, by_class, macro_f1
from fastconv.models.temperature import BINS
from fastconv.system.wording import counted

# k of the top-k accuracy.
TOP = 5
# Up to so many classes, a file has the whole confusion matrix: that of 5,000 classes has 25 million numbers, most of
# them zero.
DENSE_CLASSES = 200


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Predictions of images: probabilities float [N, classes], labels int64 [N], and names of the classes.

    `temperature` is what the logits were divided by (Guo et al. 2017); None if they were not.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    temperature: float | None = None

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation({counted(len(self.labels), 'image')}: accuracy {self.accuracy:.2%}, 95 % interval {low:.2%} to"
            f" {high:.2%}; balanced accuracy {self.balanced_accuracy:.2%}, macro F1 {self.macro_f1:.3f})"
        )

    @cached_property
    def unscaled(self) -> "Evaluation":
        """The same predictions without the temperature."""
        if self.temperature is None:
            return self
        with np.errstate(divide="ignore"):  # a probability of 0 stays 0
            logits = self.temperature * np.log(self.probabilities)
        return Evaluation(softmax(logits, axis=1), self.labels, self.classes)

    @cached_property
    def predictions(self) -> np.ndarray:
        """The most probable class of each image, int64 [N]."""
        found: np.ndarray = self.probabilities.argmax(1)
        return found

    @cached_property
    def confusion(self) -> np.ndarray:
        """Images by label and prediction, int64 [classes, classes]."""
        count = len(self.classes)
        return np.bincount(self.labels * count + self.predictions, minlength=count * count).reshape(count, count)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return float((self.predictions == self.labels).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % interval (Wilson 1927)."""
        return wilson(int((self.predictions == self.labels).sum()), len(self.labels))

    def top_k_accuracy(self, k: int = TOP) -> float:
        """Share of images whose label is among the k most probable classes."""
        best = np.argpartition(-self.probabilities, min(k, len(self.classes)) - 1, axis=1)[:, :k]
        return float((best == self.labels[:, None]).any(1).mean())

    @cached_property
    def per_class(self) -> list[dict[str, float]]:
        """Images, precision, recall and F1 of each class; NaN where a class has no images or no predictions."""
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
        """The reliability diagram: of each equal bin of confidence, its `images`, mean `confidence` and `accuracy`.

        The confidence of a prediction is its probability. Empty bins are left out.
        """
        confidence = self.probabilities.max(1)
        correct = self.predictions == self.labels
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        return [
            {
                "images": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
            }
            for inside in (bins == number for number in range(BINS))
            if inside.any()
        ]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy (Guo et al. 2017, arXiv 1706.04599)."""
        gaps = (each["images"] * abs(each["confidence"] - each["accuracy"]) for each in self.reliability)
        return sum(gaps) / len(self.labels)

    def most_confident_errors(self, count: int) -> np.ndarray:
        """Return the rows of the wrong predictions with the highest confidence, highest first: int64 [<= count]."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(1), kind="stable")][:count]

    def summary(self) -> dict[str, object]:
        """Return all metrics, for a JSON file."""
        low, high = self.interval
        return {
            "images": len(self.labels),
            "accuracy": self.accuracy,
            "accuracy_interval": [low, high],
            f"top_{TOP}_accuracy": self.top_k_accuracy() if len(self.classes) > TOP else None,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "temperature": self.temperature,
            "expected_calibration_error": self.calibration_error,
            "expected_calibration_error_unscaled": self.unscaled.calibration_error,
            "reliability": self.reliability,
            "reliability_unscaled": self.unscaled.reliability,
            "classes": [{"class": name, **row} for name, row in zip(self.classes, self.per_class, strict=True)],
            "confusion": sparse(self.confusion) if len(self.classes) > DENSE_CLASSES else self.confusion.tolist(),
        }


def sparse(confusion: np.ndarray) -> dict[str, list[int]]:
    """The entries of a confusion matrix that are not zero: numbers of the classes that are their label and their
    prediction, counted from 0, and their images."""
    labels, predictions = np.nonzero(confusion)
    counts = confusion[labels, predictions]
    return {"label": labels.tolist(), "prediction": predictions.tolist(), "images": counts.tolist()}


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion of which `correct` of `count` were seen (Wilson 1927)."""
    z = ndtri(0.975)
    share, spread = correct / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))  # where rounding takes it out of its range
