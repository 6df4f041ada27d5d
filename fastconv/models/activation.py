"""Activations by name."""

from torch import nn

ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    # Page 2019, "How to train your ResNet 8", for norms that learn their scale: all but a ReLU, without its corner.
    # For scales that are frozen at 1 he takes four times the alpha, 0.3, since learned ones end near a quarter.
    "celu": lambda: nn.CELU(alpha=0.075),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
