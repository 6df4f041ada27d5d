"""Stochastic gradient descent with momentum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastconv.optim.param_groups import decay_groups
from fastconv.optim.registry import register_optimizer
from fastconv.system.settings import MOMENTUM, POSITIVE, Range, setting

if TYPE_CHECKING:
    import torch
    from torch import nn


@register_optimizer
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum (`torch.optim.SGD`)."""

    name: str = "sgd"
    max_lr: float = setting(0.4, POSITIVE)
    """Peak learning rate; the schedule scales it."""
    momentum: float = setting(0.9, MOMENTUM)
    """Momentum, unless the schedule sets it."""
    nesterov: bool = True
    """Use Nesterov's variant of momentum."""
    weight_decay: float = setting(5e-4, Range("a number", 0, 1000))
    """L2 penalty on the weights of convolutions and linear layers; norms and biases have none."""
    bias_lr_scale: float = setting(1.0, Range("a factor", 0, 1e6, closed="right"))
    """Peak learning rate of norms and biases, as a multiple of `max_lr`; 64 in fast recipes."""
    whiten_bias_fraction: float = setting(1.0, Range("a share", 0, 1, closed="right"))
    """Share of the run, in (0, 1], after which the bias of a whitening layer is frozen."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "torch.optim.Optimizer":
        """Make the optimizer of a network's trainable parameters, at its peak learning rate."""
        import torch

        groups = decay_groups(model, self.max_lr, self.weight_decay, self.bias_lr_scale, self.whiten_bias_fraction)
        return torch.optim.SGD(groups, lr=self.max_lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
