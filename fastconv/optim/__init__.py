"""Optimizers by name. Every parameter group owns its peak learning rate (`max_lr`), which the schedule scales."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


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

    def build(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The optimizer for a network's trainable parameters, at its peak learning rate."""
        import torch

        groups = [{**group, "max_lr": self.max_lr} for group in decay_groups(model, self.weight_decay)]
        return torch.optim.SGD(groups, lr=self.max_lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)


def decay_groups(model: "nn.Module", weight_decay: float) -> list[dict]:
    """Two parameter groups: tensors of two or more dimensions decay, norms and biases do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
