"""Neighbouring layers that are computed together, in one pass over a map, where that is faster.

They are a 3x3 convolution and the max-pool behind it, and a norm and the activation behind it. Each stays a module of
its own for those who look at a network. Where somebody looks at what goes into one or comes out of it, by a hook, they
are computed one after the other.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fastconv.kernels import norm_gelu
from fastconv.kernels.winograd import tile_for, winograd_conv2d_pooled
from fastconv.models.layers import Convolution


class FusedSequential(nn.Sequential):
    """`nn.Sequential`, whose convolutions are computed together with the max-pools, and whose norms with the
    activations, that follow them."""

    def forward(self, x: Tensor) -> Tensor:
        return _through([*self], x)

    def then(self, activation: nn.Module, x: Tensor) -> Tensor:
        """`activation(self(x))`."""
        if _is_watched(self):
            return activate(activation, self(x))
        return _through([*self, activation], x)


def has_gelu(network: nn.Module) -> bool:
    """Whether a network has a `FusedSequential` with GELU, which `norm_gelu` may compute."""
    parts = (part for part in network.modules() if isinstance(part, FusedSequential))
    return any(_is_gelu(layer) for part in parts for layer in part)


def activate(activation: nn.Module, x: Tensor) -> Tensor:
    """`activation(x)`."""
    if _is_gelu(activation) and norm_gelu.suits(x):
        return norm_gelu.gelu(x)
    found: Tensor = activation(x)
    return found


def norm_activation(norm: nn.BatchNorm2d, activation: nn.Module, x: Tensor) -> Tensor:
    """`activation(norm(x))`; the norm's running statistics are updated as by torch."""
    state = _state(norm) if _is_gelu(activation) and norm_gelu.suits_norm(x) else None
    if state is None:
        return activate(activation, norm(x))
    mean, variance, batches, momentum = state
    if not norm.training:
        statistics = norm_gelu.given_statistics(mean, variance, norm.eps)
        return norm_gelu.norm_gelu(x, norm.bias, statistics, training=False)
    statistics = norm_gelu.statistics_of(x, norm.eps)
    batches.add_(1)
    mean.lerp_(statistics[0], momentum)
    variance.lerp_(statistics[3], momentum)
    return norm_gelu.norm_gelu(x, norm.bias, statistics, training=True)


def pooled_tile(conv: nn.Module, pool: nn.Module, x: Tensor) -> int:
    """Side of the tiles with which a convolution and the pool behind it are one operation; 0 if they are two."""
    if type(conv) is not Convolution or conv.kernel_size != (3, 3) or not isinstance(pool, nn.MaxPool2d):
        return 0
    about = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode)
    if about != (2, 2, 0, 1, False, False) or torch.compiler.is_compiling() or any(map(_is_watched, (conv, pool))):
        return 0
    return tile_for(x, conv.weight, padding=1, training=conv.training)


def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    at = 0
    while at < len(layers):
        layer, following = layers[at], layers[at + 1] if at + 1 < len(layers) else None
        if following is not None and (tile := pooled_tile(layer, following, x)):
            x = winograd_conv2d_pooled(x, cast(Tensor, layer.weight), 1, tile)[0]
            at += 2
        elif isinstance(layer, nn.BatchNorm2d) and following is not None:
            x = norm_activation(layer, following, x)
            at += 2
        else:
            x = activate(layer, x)
            at += 1
    return x


def _is_gelu(layer: nn.Module) -> bool:
    return type(layer) is nn.GELU and layer.approximate == "none" and not _is_watched(layer)


def _state(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """Running mean, variance, count and momentum of a norm with a bias and a scale that stays 1, else None."""
    if type(norm).forward is not nn.BatchNorm2d.forward or _is_watched(norm) or not norm.affine:
        return None
    mean, variance, batches, momentum = norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum
    if mean is None or variance is None or batches is None or momentum is None or norm.weight.requires_grad:
        return None
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (norm.weight, norm.bias, mean, variance))
    return (mean, variance, batches, momentum) if plain and bool((norm.weight == 1).all()) else None


def _is_watched(layer: nn.Module) -> bool:
    """Whether a call of a layer does more than its class says: by hooks, of it or of all layers, or its own forward."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = "forward" in vars(layer) or any(getattr(layer, name) for name in hooks)
    return own or bool(torch_module._has_any_global_hook())
