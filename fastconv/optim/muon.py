"""Muon for the filters of convolutions, and SGD for all other parameters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastconv.optim.param_groups import parts
from fastconv.optim.registry import register_optimizer
from fastconv.system.settings import MOMENTUM, POSITIVE, Range, setting

if TYPE_CHECKING:
    from torch import nn

    from fastconv.optim.muon_sgd import MuonSGD

# airbench's factor on the logits, and CIFAR-10's classes, for which the learning rate of heads was tuned.
SCALE, CLASSES = 1 / 256, 10


@register_optimizer
@dataclass(frozen=True)
class Muon:
    """Muon: each filter bank moves by the orthogonal matrix nearest to its momentum. SGD trains the other parameters.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the values of airbench94_muon in Jordan's
    cifar10-airbench. The values of the SGD part are for the loss summed over a batch, so they hold for any batch size.
    """

    name: str = "muon"
    max_lr: float = setting(0.24, POSITIVE)
    """Peak learning rate of the filters, scaled by the schedule. A bank of n filters keeps the norm sqrt(n)."""
    momentum: float = setting(0.6, MOMENTUM)
    """Momentum of the filters, unless the schedule sets it."""
    newton_schulz_steps: int = setting(3, Range("a number of steps", 1, 100))
    """Steps of the Newton-Schulz iteration towards the orthogonal matrix."""
    bias_lr: float = setting(0.053, POSITIVE)
    """Peak learning rate, for SGD, of norms and of other biases than those of linear layers, for the loss summed over a
    batch."""
    head_lr: float = setting(0.67, POSITIVE)
    """Peak learning rate, for SGD, of linear layers, for the loss summed over a batch, logits scaled by 1/256 and 10
    classes. It is adapted to other scales and to more classes."""
    sgd_momentum: float = setting(0.85, MOMENTUM)
    """Momentum of the SGD part, unless the schedule sets it."""
    weight_decay: float = setting(2e-6, Range("a number", 0, 1000))
    """Weight decay of norms, biases and linear layers: the share that each image removes at the peak learning rate."""
    whiten_bias_fraction: float = setting(0.375, Range("a share", 0, 1, closed="right"))
    """Share of the run, in (0, 1], after which the bias of a whitening layer is frozen."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "MuonSGD":
        """Make the optimizer of a network's trainable parameters, at its peak learning rate.

        Args:
            batch_size: images per step; the loss is the mean over them.
            precision: number format of the iteration, `bf16` or `fp32`. bf16 is precise enough, but on hardware without
                bf16 multiplication it is many times slower than fp32.
        """
        import torch
        from torch import nn

        from fastconv.optim.muon_sgd import MuonSGD

        found = parts(model)
        # A factor s on the logits acts twice: it scales the gradient, and the effect of a step on the logits. With the
        # same learning rate they would move s**2 times as far.
        head_lr = self.head_lr * (SCALE / getattr(model, "logits_scale", 1.0)) ** 2
        # Of k classes, each has a k-th of the images: the gradient of its logit's weights is as many times smaller.
        # 100 classes were learned far better for it (docs/research-log.md).
        if found.heads:
            head_lr *= max(1.0, len(found.heads[-1]) / CLASSES)

        # A linear layer's bias is a weight whose input is always 1. At the rate of norms, that of the last layer makes
        # training diverge (ResNet-18 in batches of 1000).
        of_linear = {id(layer.bias) for layer in model.modules() if isinstance(layer, nn.Linear)}
        heads = found.heads + [bias for bias in found.biases if id(bias) in of_linear]
        biases = [bias for bias in found.biases if id(bias) not in of_linear]

        def by_sgd(params: list["nn.Parameter"], lr: float, **more: float) -> dict[str, Any]:
            # The gradient of the mean loss is that of the sum divided by the batch size; the learning rate compensates
            # for it. The share that decays is then lr * weight_decay = self.weight_decay * batch_size for every lr.
            peak = lr * batch_size
            decay = self.weight_decay * batch_size / peak
            return {"params": params, "lr": peak, "max_lr": peak, "weight_decay": decay, "muon": False,
                    "momentum": self.sgd_momentum, **more}  # fmt: skip

        filters: dict[str, Any] = {
            "params": found.filters,
            "lr": self.max_lr,
            "max_lr": self.max_lr,
            "weight_decay": 0.0,
            "muon": True,
            "momentum": self.momentum,
        }
        groups = [
            filters,
            by_sgd(biases, self.bias_lr),
            by_sgd(heads, head_lr),
            by_sgd(found.whitening, self.bias_lr, schedule_fraction=self.whiten_bias_fraction),
        ]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return MuonSGD([group for group in groups if group["params"]], self.newton_schulz_steps, dtype)
