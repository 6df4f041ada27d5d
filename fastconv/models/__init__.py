"""Networks: each takes normalised images float [B, C, H, W] and returns logits float [B, classes].

If the first layer of a network is computed from the training images, it is called `whitening` (see
`whitening.Whitening`). Importing this package does not import torch: each network is imported when it is requested.
"""

from fastconv.models.configs import CustomNetwork, Network, model_settings
from fastconv.models.registry import (
    blueprint,
    build_model,
    check_network,
    count_parameters,
    network_names,
    register_network,
    settings_of,
)

__all__ = [
    "CustomNetwork",
    "Network",
    "blueprint",
    "build_model",
    "check_network",
    "count_parameters",
    "model_settings",
    "network_names",
    "register_network",
    "settings_of",
]
