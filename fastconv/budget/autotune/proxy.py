"""A small network, trained for a moment, to find out something about the images."""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.budget.hardware import Device
from fastconv.config.schema import Airbench, model_settings
from fastconv.data.dataset import ImageData, mean_and_std
from fastconv.optim import Muon
from fastconv.training.module import ImageClassifier


def learn(
    data: ImageData,
    network: Airbench,
    device: Device,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    label_smoothing: float = 0.0,
) -> ImageClassifier:
    """The network after so many steps, whose learning rate falls to zero in a line, ready to answer.

    Leaves the random state as it is.

    Args:
        data: the images to whiten by.
        batches: images uint8 [B, H, W, C] and labels int64 [B], of one size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape, scale = data.images.shape[1:], mean_and_std(data.images)
        module = ImageClassifier(network.name, model_settings(network), shape, data.classes, *scale)
    module.whiten(data.images)
    module.to(device.kind)
    optimizer = None
    for step, (images, labels) in enumerate(islice(batches, steps)):
        optimizer = optimizer or Muon().build(module.model, len(labels), device.precision)
        for group in optimizer.param_groups:
            group["lr"] = group["max_lr"] * (1 - step / steps)
        with device.autocast():
            logits = module(images.to(device.kind))
            loss = F.cross_entropy(logits, labels.to(device.kind), label_smoothing=label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return module.eval()
