"""Temperature scaling: one factor on the logits that makes probabilities say how often they are right.

Guo et al. 2017, arXiv 1706.04599. A network that learns from smoothed labels is less sure than it may be.
"""

import math

from torch import Tensor

# Key of the temperature in a checkpoint; null for runs that did not smooth labels.
TEMPERATURE = "temperature"
# Bins of confidence of the calibration error, as in Guo et al. 2017.
BINS = 15
# A temperature is at least the first and at most the second: networks that have learned little have small logits.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e4
# How often the range between them, on a logarithmic scale, is halved: to one part in a million.
HALVINGS = 24
# Further epochs after which a network knows the labels of its training images by heart, so that only its own
# probabilities count. Held-out images asked for 0.0, 0.1, 0.3, 0.3, 0.4, 0.5 and 0.9 of the way to the temperature of
# these after 2, 4, 10, 20, 25, 30 and 50 epochs, when both had the least cross-entropy; too sure is the worse error
# (benchmarks/research/temperature.py).
REPEATS = 45.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which the mean confidence of predictions is their accuracy.

    This is expectation consistency (Clarté et al. 2023, arXiv 2303.02644). At the temperature of least cross-entropy,
    networks that learned from smoothed labels are 1 to 2 % too sure (benchmarks/research/temperature.py).

    The mean confidence falls as the temperature rises, so it says on which side the wanted one is. (`scipy.optimize`
    would do this too, but takes half a second of the budget to import.)

    Args:
        logits: float [N, classes].
        labels: int64 [N].
    """
    return _temperature_at(logits, float((logits.argmax(1) == labels).double().mean()))


def fit_on_training_images(logits: Tensor, labels: Tensor, label_smoothing: float, epochs: float) -> float:
    """A temperature for images that a network was not trained on, from some that it was.

    Within the first epoch they are new to it, and their labels say how often it is right. The more often it has seen
    them, the less they do. Then the temperature moves towards the one that takes the smoothing out of its own
    probabilities, as if they were right about smoothed labels: that of networks that know their images by heart.

    Args:
        logits: float [N, classes].
        labels: int64 [N].
        label_smoothing: share of each label that was spread over all classes, in [0, 1).
        epochs: how often the network has seen each of its training images.
    """
    known = min(max((epochs - 1) / REPEATS, 0.0), 1.0)
    by_labels = fit_temperature(logits, labels)
    by_itself = _temperature_at(logits, float(without_smoothing(logits, label_smoothing).amax(1).mean()))
    return float(by_labels ** (1 - known) * by_itself**known)


def _temperature_at(logits: Tensor, accuracy: float) -> float:
    """The temperature at which the mean probability of predictions is the accuracy, which is moved towards chance.

    By one part in as many as there are images and two more, as in Platt 1999 ("Probabilistic outputs for support vector
    machines"): some images, all of them right, do not say that no other will be wrong.
    """
    smoothing = 1 / (len(logits) + 2)
    wanted = (1 - smoothing) * accuracy + smoothing / logits.shape[1]
    values = logits.double()
    behind = values - values.amax(1, keepdim=True)  # the probability of a prediction is 1 / sum(exp(behind))
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_sure = float((1 / (behind / math.exp(middle)).exp().sum(1)).mean()) > wanted
        low, high = (middle, high) if too_sure else (low, middle)
    return math.exp((low + high) / 2)


def without_smoothing(logits: Tensor, label_smoothing: float) -> Tensor:
    """The probabilities, float64 [N, classes], whose smoothing gives the softmax of the logits, float [N, classes].

    Probabilities below what smoothing adds become 0.
    """
    added = label_smoothing / logits.shape[1]
    found = ((logits.double().softmax(1) - added) / (1 - label_smoothing)).clamp(min=0)
    return found / found.sum(1, keepdim=True)
