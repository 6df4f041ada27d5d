"""Activations by name."""

from torch import nn

ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    # With the alpha of Page 2019, "How to train your ResNet 8": all but a ReLU, without its corner.
    "celu": lambda: nn.CELU(alpha=0.075),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
