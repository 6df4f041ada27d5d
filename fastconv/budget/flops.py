"""Floating-point operations of training, counted rather than timed."""

import functools
import json
from typing import Any

import torch

from fastconv.kernels.winograd import direct_convolutions
from fastconv.models import blueprint, build_model

# Images that are counted: batch norm has no statistics of a single one.
PAIR = 2


def training_flops(model: str, settings: dict[str, Any], shape: tuple[int, int, int], classes: int) -> int:
    """Floating-point operations of forward and backward on one image, as torch counts them.

    Those are a multiplication and an addition for each weight of a convolution or a linear layer and each pixel, and in
    the backward pass as many for each gradient that is needed; norms, activations and the optimizer are left out. The
    tensors have no memory, so that counting takes hardly any time.

    Args:
        model, settings: name and settings of the network.
        shape: height, width and channels of an image.
        classes: number of classes.
    """
    return _count(model, json.dumps(settings, sort_keys=True), tuple(shape), classes)


@functools.cache  # the runs of a sweep ask for the same
def _count(model: str, settings: str, shape: tuple[int, int, int], classes: int) -> int:
    """The operations of one image; the settings are JSON, so that the cache can have them as a key."""
    try:
        return _count_in(blueprint(model, shape[2], classes, **json.loads(settings)), shape, "meta")
    except (RuntimeError, TypeError):  # a user's own network may ask what is in a tensor
        with torch.random.fork_rng(devices=[]):
            return _count_in(build_model(model, shape[2], classes, **json.loads(settings)), shape, "cpu")


def _count_in(network: torch.nn.Module, shape: tuple[int, int, int], where: str) -> int:
    """The operations of one image in a network on a device, `meta` for tensors without memory."""
    from torch.utils.flop_counter import FlopCounterMode

    height, width, channels = shape
    with direct_convolutions(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(PAIR, channels, height, width, device=where)).sum().backward()
    return int(counter.get_total_flops()) // PAIR
