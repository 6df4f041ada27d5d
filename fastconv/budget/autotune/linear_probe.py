"""A linear probe: a linear classifier on the features of a frozen network (Alain & Bengio 2016, arXiv 1610.01644)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.hardware import Device
from fastconv.data.dataset import ImageData
from fastconv.data.splits import stratified_split
from fastconv.models import build_model, model_settings
from fastconv.models.classifier import Normalise
from fastconv.models.configs import Pretrained


@dataclass(frozen=True)
class LinearProbe:
    """The result of a linear classifier on a frozen network's features.

    Args:
        accuracy: on held-out images, in [0, 1].
        images: number of those.
        learned: number of training images that it was fitted to.
        image_seconds: seconds that the features of an image took.
        seconds: those of the whole trial, with importing the library and reading the weights.
    """

    accuracy: float
    images: int
    learned: int
    image_seconds: float
    seconds: float


@torch.inference_mode()
def probe_features(
    data: ImageData,
    model: Pretrained,
    state: Mapping[str, Tensor],
    device: Device,
    deadline: float,
    settings: Autotune = AUTOTUNE,
) -> LinearProbe | None:
    """Fit a linear classifier to the features of training images, and score it on others.

    The random state stays as it is.

    Args:
        data: training images.
        model: the network's settings, and its weights in `state`.
        deadline: when it must have ended, as `time.perf_counter` reads it; None is returned if too few images have
            features by then.

    Raises InputError for weights that do not fit.
    """
    entered = time.perf_counter()
    from fastconv.models.pretrained_weights import load_weights, source_of

    classes = len(data.classes)
    with torch.random.fork_rng():
        network: Any = build_model(model.name, data.channels, classes, **model_settings(model))
    load_weights(network, state, source_of(model))
    statistics = (0.0,) * data.channels, (1.0,) * data.channels  # pixels as they are, in [0, 1]
    network.normalised_by(*statistics)
    network.to(device.kind, memory_format=torch.channels_last).eval()
    normalise = Normalise(*statistics).to(device.kind)
    kept, held_out = stratified_split(data, min(0.25, settings.pretrained_held_out / len(data)), seed=0)
    order = np.random.default_rng(0)
    kept, held_out = (order.permutation(rows) for rows in (kept, held_out))
    # In each batch one in four images is held out, so that the trial can end after any of them.
    size, found, longest = settings.pretrained_batch_size, dict[str, list[Tensor]](), 0.0
    started = time.perf_counter()
    for at in range(0, min(len(kept), settings.pretrained_features), 3 * size // 4):
        began = time.perf_counter()
        if found and began + 2 * longest > deadline:
            break
        parts = {"kept": kept[at : at + 3 * size // 4], "held": held_out[at // 3 : at // 3 + size // 4]}
        rows = np.concatenate(list(parts.values()))
        with device.autocast():
            images = torch.from_numpy(data.images[rows]).to(device.kind)
            features = network.features(normalise(images)).float().cpu()
        for (name, part), values in zip(parts.items(), features.split(list(map(len, parts.values()))), strict=True):
            found.setdefault(name, []).append(values)
            found.setdefault(f"{name} labels", []).append(torch.from_numpy(data.labels[part]))
        longest = max(longest, time.perf_counter() - began)
    seconds = time.perf_counter() - started
    learned, known, others, wanted = (
        torch.cat(found.get(name, [torch.empty(0)])) for name in ("kept", "kept labels", "held", "held labels")
    )
    if len(learned) < min(settings.pretrained_min_images * classes, len(kept)) or not len(others):
        return None
    predicted = linear_probe(learned, known, classes, others, settings.pretrained_ridge).argmax(1)
    accuracy = float((predicted == wanted).double().mean())
    each = seconds / (len(learned) + len(others))
    return LinearProbe(accuracy, len(others), len(learned), each, time.perf_counter() - entered)


def linear_probe(features: Tensor, labels: Tensor, classes: int, others: Tensor, ridge: float) -> Tensor:
    """Scores float [M, classes] of a linear classifier: ridge regression on the classes as vectors of 0 and 1.

    It is solved in the space of the images, which are fewer than the features as a rule.

    Args:
        features: float [N, D], of training images; labels int64 [N].
        others: float [M, D], of the images to classify.
        ridge: penalty, as a multiple of the mean squared length of a feature vector.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    features, others = (features - mean) / spread, (others - mean) / spread
    targets = F.one_hot(labels, classes).to(features.dtype)
    prior = targets.mean(0)
    kernel = features @ features.T
    penalty = ridge * kernel.diagonal().mean() * torch.eye(len(kernel))
    scores: Tensor = others @ (features.T @ torch.linalg.solve(kernel + penalty, targets - prior)) + prior
    return scores
