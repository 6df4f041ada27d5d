"""Trains a proxy network: a small one, for a moment, which tells something about the images."""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.budget.hardware import Device
from fastconv.data.dataset import ImageData, mean_and_std
from fastconv.models import build_model
from fastconv.models.classifier import Classifier, whiten
from fastconv.models.configs import Airbench, model_settings
from fastconv.optim import Muon


def train_proxy(
    data: ImageData,
    network: Airbench,
    device: Device,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    label_smoothing: float = 0.0,
) -> Classifier:
    """Train a network with Muon, the learning rate falling linearly to zero; return it in evaluation mode.

    It maps images uint8 [B, H, W, C] to logits float [B, classes]. Leaves the random state as it is.

    Args:
        data: images from which the whitening layer, the mean and the standard deviation of pixels are computed.
        batches: images uint8 [B, H, W, C] and labels int64 [B], with the same B in each batch.
        steps: optimizer steps, one for each batch.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        channels = data.images.shape[3]
        model = build_model(network.name, channels, len(data.classes), **model_settings(network))
        module = Classifier(model.to(memory_format=torch.channels_last), *mean_and_std(data.images))
    whiten(model, module.normalise, data.images)
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
