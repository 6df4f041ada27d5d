"""Class probabilities of a network, batch by batch."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fastconv.data.dataset import images_at_once
from fastconv.system.errors import InputError


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `count` rows."""
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


@torch.inference_mode()
def class_probabilities(
    logits: Callable[[Tensor], Tensor],
    images: np.ndarray | Tensor,
    device: torch.device | str,
    batch_size: int | None = None,
) -> np.ndarray:
    """Return class probabilities float32 [N, classes] of at least one image.

    Args:
        logits: gives logits float [B, classes] of a batch of images on the device.
        images: [N, ...], of whatever shape and dtype `logits` takes.
        device: where `logits` computes.
        batch_size: images to compute at once; None for as many as `images_at_once` says.

    Raises InputError for results that are not numbers.
    """
    found = []
    for part in batches(len(images), batch_size or images_at_once(images.shape[1:])):
        # Copied, since an array may be a read-only map of a file.
        batch = images[part] if isinstance(images, Tensor) else torch.from_numpy(np.array(images[part]))
        found.append(logits(batch.to(device)).float().softmax(1).cpu())
    probabilities: np.ndarray = torch.cat(found).numpy()
    if not np.isfinite(probabilities).all():
        raise InputError("the network's outputs are not finite: its weights are damaged. Choose another run")
    return probabilities
