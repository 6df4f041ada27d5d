"""Whether a mirrored image is an image of the same class: asked of a small network that has seen none."""

from collections.abc import Iterator

import numpy as np
import torch

from fastconv.budget.autotune.proxy import train_proxy
from fastconv.budget.hardware import Device
from fastconv.data.dataset import ImageData
from fastconv.data.splits import stratified_split
from fastconv.models.configs import Airbench

BATCH_SIZE, HELD, SCORED_AT_ONCE = 125, 1000, 500
WHITENING_IMAGES = 1000
LEAST_STEPS = 10


def flip_accuracy(data: ImageData, network: Airbench, device: Device, images: int) -> tuple[float, float]:
    """Accuracy on held-out training images as they are, and on the same images mirrored left to right.

    The network learns from `images` others, as they are; its learning rate falls to zero in a line. Leaves the random
    state as it is.
    """
    kept, held = stratified_split(data, min(0.5, HELD / len(data)), seed=0)
    generator = torch.Generator().manual_seed(0)

    def batch(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(data.images[rows]), torch.from_numpy(data.labels[rows])

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield batch(kept[torch.randint(len(kept), (BATCH_SIZE,), generator=generator).numpy()])

    some = data.take(kept[:WHITENING_IMAGES])
    module = train_proxy(some, network, device, batches(), max(LEAST_STEPS, images // BATCH_SIZE))
    plain = mirrored = 0
    with torch.no_grad(), device.autocast():
        for at in range(0, len(held), SCORED_AT_ONCE):
            inputs, labels = (part.to(device.kind) for part in batch(held[at : at + SCORED_AT_ONCE]))
            plain += int((module(inputs).argmax(1) == labels).sum())
            mirrored += int((module(inputs.flip(2)).argmax(1) == labels).sum())
    return plain / len(held), mirrored / len(held)
