"""Muon for the filters of convolutions, with SGD for everything else."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastconv.optim.param_groups import parts
from fastconv.optim.registry import register_optimizer
from fastconv.system.settings import MOMENTUM, POSITIVE, Range, setting

if TYPE_CHECKING:
    from torch import nn

    from fastconv.optim.muon_sgd import MuonSGD

# airbench's factor on the logits, with which the learning rate of heads was found.
SCALE = 1 / 256


@register_optimizer
@dataclass(frozen=True)
class Muon:
    """Muon: each filter bank moves by the orthogonal matrix nearest to its momentum; SGD for the rest.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, with the values of airbench94_muon in Jordan's
    cifar10-airbench. Those of the SGD part are for the loss summed over a batch, so that they hold for any batch size.
    """

    name: str = "muon"
    max_lr: float = setting(0.24, POSITIVE)
    """Peak learning rate of the filters, whose norm is held at the root of their number; the schedule scales it."""
    momentum: float = setting(0.6, MOMENTUM)
    """Momentum of the filters, where the schedule does not set it."""
    newton_schulz_steps: int = setting(3, Range("a number of steps", 1, 100))
    """Steps of the iteration towards the orthogonal matrix."""
    bias_lr: float = setting(0.053, POSITIVE)
    """Peak learning rate of norms and biases, by SGD, for the summed loss of a batch."""
    head_lr: float = setting(0.67, POSITIVE)
    """Peak learning rate of linear layers, by SGD, for the summed loss of a batch and logits scaled by 1/256; for
    another scale it is adapted."""
    sgd_momentum: float = setting(0.85, MOMENTUM)
    """Momentum of the SGD part, where the schedule does not set it."""
    weight_decay: float = setting(2e-6, Range("a number", 0, 1000))
    """Share of norms, biases and linear layers that each image of a batch takes away at the peak learning rate."""
    whiten_bias_fraction: float = setting(0.375, Range("a share", 0, 1, closed="right"))
    """Share of the run, in (0, 1], after which the bias of a whitening layer stands still."""

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "MuonSGD":
        """The optimizer for a network's trainable parameters, at its peak learning rate.

        Args:
            batch_size: images per step, over whose losses the mean is taken.
            precision: `bf16` or `fp32`: what the iteration computes in. It needs no more than bf16, but where the
                hardware does not multiply that, it is many times slower than fp32.
        """
        import torch

        from fastconv.optim.muon_sgd import MuonSGD

        found = parts(model)
        # A factor s on the logits counts twice, in the gradient and in what a step does to them: the same learning rate
        # would move the logits by s**2.
        head_lr = self.head_lr * (SCALE / getattr(model, "logits_scale", 1.0)) ** 2

        def by_sgd(params: list["nn.Parameter"], lr: float, **more: float) -> dict[str, Any]:
            # The gradient of a mean is that of the sum divided by the batch: the learning rate makes up for it. What
            # decays is then lr * weight_decay = self.weight_decay * batch_size of the weights, whatever lr is.
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
            by_sgd(found.biases, self.bias_lr),
            by_sgd(found.heads, head_lr),
            by_sgd(found.whitening, self.bias_lr, schedule_fraction=self.whiten_bias_fraction),
        ]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return MuonSGD([group for group in groups if group["params"]], self.newton_schulz_steps, dtype)
