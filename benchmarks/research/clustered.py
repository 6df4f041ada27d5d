"""Data sets of many classes: each class of a data set divided into clusters of images that look alike."""

import functools
import os
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from fastconv.data.loading import load

DATA = Path(os.environ.get("FASTCONV_DATA", "data"))


def clustered(dataset: str, count: int, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels [N] of `count` times as many classes, for images uint8 [N, H, W, C] of this data set and their labels."""
    found = np.empty_like(labels)
    for label, clusters in _clusters(dataset, count).items():
        own = labels == label
        found[own] = count * label + clusters.predict(_small(images[own]))
    return found


@functools.cache
def _clusters(dataset: str, count: int) -> dict[int, KMeans]:
    """Clusters of the training images of each class, by their pixels at a quarter of the side."""
    train, _ = load(dataset, DATA)
    return {
        label: KMeans(count, random_state=0).fit(_small(train.images[train.labels == label]))
        for label in range(len(train.classes))
    }


def _small(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] as means of 4x4 pixels, float [N, H * W * C / 16]."""
    count, height, width, channels = images.shape
    return images.reshape(count, height // 4, 4, width // 4, 4, channels).mean((2, 4)).reshape(count, -1)
