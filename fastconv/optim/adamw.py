"""Adam with decoupled weight decay."""

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
class AdamW:
    """Adam with decoupled weight decay (`torch.optim.AdamW`; Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    name: str = "adamw"
    max_lr: float = setting(3e-3, POSITIVE)
    """Peak learning rate; the schedule scales it."""
    momentum: float = setting(0.9, MOMENTUM)
    """Decay of the running mean of gradients (Adam's first beta), unless the schedule sets it."""
    beta2: float = setting(0.99, MOMENTUM)
    """Decay of the running mean of squared gradients."""
    eps: float = setting(1e-8, Range("a number", 0, 1, closed="right"))
    """Added to the root of the running mean of squared gradients, for numerical stability."""
    weight_decay: float = setting(0.05, Range("a number", 0, 1000))
    """Weight decay of convolutions and linear layers: a step removes this share, times the learning rate."""
    bias_lr_scale: float = setting(1.0, Range("a factor", 0, 1e6, closed="right"))
    """Peak learning rate of norms and biases, as a multiple of `max_lr`."""
    whiten_bias_fraction: float = setting(1.0, Range("a share", 0, 1, closed="right"))
    """Share of the run, in (0, 1], after which the bias of a whitening layer is frozen."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "torch.optim.Optimizer":
        """Make the optimizer of a network's trainable parameters, at its peak learning rate."""
        import torch

        groups = decay_groups(model, self.max_lr, self.weight_decay, self.bias_lr_scale, self.whiten_bias_fraction)
        return torch.optim.AdamW(groups, lr=self.max_lr, betas=(self.momentum, self.beta2), eps=self.eps, fused=True)
