"""The network of a planned run: checks of it, its pretrained weights, and which of fastconv's kernels compute it."""

import torch
from torch import nn

from fastconv.budget.clock import Clock
from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.data.stream.spec import StreamSpec
from fastconv.kernels import norm_gelu
from fastconv.models import CustomNetwork, blueprint, build_model, check_network, model_settings
from fastconv.models.configs import Pretrained
from fastconv.models.fused import has_gelu
from fastconv.models.layers import winograd_layers
from fastconv.models.resizing import small_side
from fastconv.optim import CustomOptimizer
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError, reason


def checked_network(config: Config, spec: StreamSpec) -> nn.Module:
    """The network without memory for its weights. Raises InputError if it cannot take the images."""
    (height, width, channels), classes, settings = spec.shape, len(spec.classes), model_settings(config.model)
    network = blueprint(config.model.name, channels, classes, **settings)
    if isinstance(config.model, CustomNetwork | Pretrained):
        check_network(config.model.name, spec.shape, classes, settings, config.trainer.channels_last)
        if config.progressive_resizing:
            small = small_side(height), small_side(width), channels
            check_network(config.model.name, small, classes, settings, config.trainer.channels_last)
    return network


def pretrained_weights(config: Config, network: nn.Module, clock: Clock, needs_weights: bool) -> str | None:
    """The name of the weights that the network begins with, which are fetched now if need be; None without any.

    Raises InputError for weights that cannot be read or do not fit.
    """
    if not isinstance(config.model, Pretrained):
        return None
    from fastconv.models.pretrained_weights import require_weights, weights_name  # imports torchvision

    settings = config.model

    def fetch() -> None:
        if needs_weights:  # as the first rank knows, which has looked for the run to resume
            with clock.segment("precompute"):
                require_weights(settings, network)

    from_first_rank("weights", fetch)
    return weights_name(config.model)


def check_optimizer(config: Config, network: nn.Module, device: Device) -> None:
    """Raise InputError for an optimizer of the user's own that refuses its arguments, which only building it shows."""
    if not isinstance(config.optimizer, CustomOptimizer):
        return
    try:
        config.optimizer.build(network, config.batch_size, device.precision)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"optimizer._target_={config.optimizer.target} fails: {reason(error)}") from error


def count_winograd_layers(config: Config, spec: StreamSpec, device: Device) -> int:
    """The number of the network's convolutions whose shapes suit Winograd's algorithm."""
    with torch.random.fork_rng(devices=[]):
        # Not the network on the meta device: for the shapes there, torch imports modules for half a second.
        network = build_model(config.model.name, spec.shape[2], len(spec.classes), **model_settings(config.model))
    return winograd_layers(network, spec.shape, config.micro_batch_size, device.dtype)


def has_fused_norms(network: nn.Module, device: Device) -> bool:
    """Whether norms and activations of the network are computed in one pass."""
    return device.winograd and norm_gelu.obstacle(device.dtype) is None and has_gelu(network)
