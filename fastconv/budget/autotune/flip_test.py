"""Flip-invariance test: whether an image flipped left to right is still an image of its class.

A proxy network learns from unflipped images, and classifies held-out images and their flipped copies. It has seen no
flipped image, so its accuracy on the copies shows how much a flip changes.
"""

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastconv.budget.autotune.proxy import train_proxy
from fastconv.budget.autotune.scaling_law import flip_proxy
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import SpeedProfiles, image_seconds
from fastconv.budget.hardware import Device
from fastconv.data.dataset import ImageData, evenly_spread, representative_rows
from fastconv.data.splits import stratified_split
from fastconv.models.configs import Airbench
from fastconv.system.distributed import from_first_rank
from fastconv.system.documents import read_json, record_of
from fastconv.system.files import keep_measurement
from fastconv.system.json_text import as_json

# Changes when the same images give another result, so that they are tested again. 2: the proxy network is whitened by
# images of all classes.
VERSION = 2


@dataclass(frozen=True)
class FlipAccuracy:
    """The accuracy of a proxy network on held-out images, and on their flipped copies.

    Args:
        plain: accuracy on the images as they are, in [0, 1].
        flipped: accuracy on the same images flipped.
        images: number of images.
        lost: images that it gets right only as they are.
        gained: images that it gets right only flipped.
        seconds: that the test had; 0 for one that an earlier version kept.
    """

    plain: float
    flipped: float
    images: int
    lost: int
    gained: int
    seconds: float = 0.0

    def is_evident(self, settings: Autotune = AUTOTUNE) -> bool:
        """Whether the accuracies tell anything, by McNemar's exact test.

        They do if they differ significantly, or if they would with a ratio of `same_class_other_look`.
        """
        if mcnemar(self.lost, self.gained) < settings.flip_test_significance:
            return True
        difference = round((1 - settings.same_class_other_look) * self.plain * self.images)
        unlike = max(self.lost + self.gained, difference)
        lost = (unlike + difference) // 2
        return mcnemar(lost, unlike - lost) < settings.flip_test_significance

    def same_class(self, settings: Autotune = AUTOTUNE) -> bool:
        """Whether flipped images are of the same class."""
        return self.flipped >= settings.same_class_other_look * self.plain

    def other_look(self, settings: Autotune = AUTOTUNE) -> bool:
        """Whether flipped images are of the same class but look different, so that a network has to learn both."""
        return self.same_class(settings) and self.flipped < settings.same_class * self.plain


def mcnemar(lost: int, gained: int) -> float:
    """p-value of McNemar's exact test: two-sided, by the binomial distribution of the images that differ."""
    count = lost + gained
    tail = sum(math.comb(count, each) for each in range(min(lost, gained) + 1))
    return float(min(1.0, 2 * tail / 2**count))


def flip_test(
    train: ImageData,
    profiles: SpeedProfiles,
    device: Device,
    cache: Path,
    seconds: float,
    settings: Autotune = AUTOTUNE,
) -> FlipAccuracy | None:
    """The result of the flip-invariance test; None if it is not in the cache and `seconds` are too short for it.

    One that tells nothing is in the cache too, so that all runs of a sweep are flipped alike. It is repeated when there
    is more time for it. Of several ranks the first one tests.

    Args:
        train: the training images.
        profiles: measures the proxy network, to know how many images the time affords.
        seconds: time for the test; it trains on as many images as that affords.
        cache: folder in which the result is kept, by the digest of the images.
    """
    path = cache / f"flip_test-{hashlib.sha256(f'{VERSION} {train.digest}'.encode()).hexdigest()[:16]}.json"

    def test() -> dict[str, Any] | None:
        kept = _kept(path)
        if kept and (kept.is_evident(settings) or seconds <= max(kept.seconds, settings.flip_test_min_seconds)):
            return dataclasses.asdict(kept)
        if seconds < settings.flip_test_min_seconds:
            return None
        proxy = flip_proxy(train.side)
        batch_size, step_seconds, scoring = settings.flip_test_batch_size, settings.flip_test_gpu_step_seconds, 0.0
        if device.kind == "cpu":
            profile = profiles.profile(proxy)
            step_seconds = image_seconds(profile, settings) * batch_size + profile.update_seconds
            scoring = 2 * settings.flip_test_held_out * profile.score_seconds
        affordable = max(0.0, seconds - scoring) / step_seconds * batch_size
        images = int(min(settings.flip_test_images, affordable))
        most = settings.flip_test_max_share * seconds
        found = flip_accuracy(train, proxy, device, images, settings, most)
        result = dataclasses.asdict(dataclasses.replace(found, seconds=seconds))
        keep_measurement(path, as_json(result).encode())
        return result

    found: dict[str, Any] | None = from_first_rank("flip test", test)
    return None if found is None else FlipAccuracy(**found)


def _kept(path: Path) -> FlipAccuracy | None:
    """The result in a file; None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = record_of(FlipAccuracy, read_json(path))
        if max(kept.plain, kept.flipped) <= 1 and kept.lost + kept.gained <= kept.images:
            return kept
    return None


def flip_accuracy(
    data: ImageData,
    network: Airbench,
    device: Device,
    images: int,
    settings: Autotune = AUTOTUNE,
    seconds: float = math.inf,
) -> FlipAccuracy:
    """Train a network on images as they are, and score it on held-out ones, as they are and flipped.

    Leaves the random state as it is.

    Args:
        data: the images, of which some are held out.
        images: number of images to train on, repeats included.
        seconds: after which training stops, as a machine may be slower than its benchmark.
    """
    began = time.perf_counter()
    kept, held_out = _split(data, settings.flip_test_held_out)
    generator = torch.Generator().manual_seed(0)
    batch_size, score_size = settings.flip_test_batch_size, settings.scoring_batch_size

    def batch(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(data.images[rows]), torch.from_numpy(data.labels[rows])

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while time.perf_counter() - began < seconds:
            yield batch(kept[torch.randint(len(kept), (batch_size,), generator=generator).numpy()])

    whitened = data.take(kept[representative_rows(data.labels[kept], settings.flip_test_whitening_images)])
    steps = max(settings.flip_test_min_steps, images // batch_size)
    module = train_proxy(whitened, network, device, batches(), steps)
    right = np.zeros((2, 2), int)  # images by whether they are right as they are, and flipped
    with torch.no_grad(), device.autocast():
        for start in range(0, len(held_out), score_size):
            inputs, labels = (part.to(device.kind) for part in batch(held_out[start : start + score_size]))
            plain, flipped = ((module(each).argmax(1) == labels).cpu().numpy() for each in (inputs, inputs.flip(2)))
            np.add.at(right, (plain.astype(int), flipped.astype(int)), 1)
    count = len(held_out)
    return FlipAccuracy(
        float(right[1].sum() / count), float(right[:, 1].sum() / count), count, int(right[1, 0]), int(right[0, 1])
    )


def _split(data: ImageData, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to hold out, int64: of the latter, as many of each class as among all, and about `most`, but
    not more than half."""
    kept, held_out = stratified_split(data, min(0.5, most / len(data)), seed=0)
    if not len(held_out):  # there are so many classes that each would give less than half an image
        by_class = np.argsort(data.labels, kind="stable")
        held_out = by_class[evenly_spread(len(data), min(most, len(data) // 2))]
        kept = np.setdiff1d(by_class, held_out)
    return kept, held_out
