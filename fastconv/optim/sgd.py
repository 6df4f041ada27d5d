"""Stochastic gradient descent with momentum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastconv.optim.param_groups import decay_groups
from fastconv.optim.registry import register_optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn


@register_optimizer
@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum (`torch.optim.SGD`)."""

    name: str = "sgd"
    max_lr: float = 0.4
    """Peak learning rate; the schedule scales it."""
    momentum: float = 0.9
    """Momentum, where the schedule does not set it."""
    nesterov: bool = True
    """Nesterov's variant of momentum."""
    weight_decay: float = 5e-4
    """L2 penalty on the weights of convolutions and linear layers; norms and biases have none."""
    bias_lr_scale: float = 1.0
    """Peak learning rate of norms and biases, as a multiple of `max_lr`; 64 in fast recipes."""
    whiten_bias_fraction: float = 1.0
    """Share of the run, in (0, 1], after which the bias of a whitening layer stands still."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "torch.optim.Optimizer":
        """The optimizer for a network's trainable parameters, at its peak learning rate."""
        import torch

        groups = decay_groups(model, self.max_lr, self.weight_decay, self.bias_lr_scale, self.whiten_bias_fraction)
        return torch.optim.SGD(groups, lr=self.max_lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
