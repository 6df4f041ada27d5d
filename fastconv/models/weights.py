"""A network's weights: loads them by name, and computes the digest by which its results and its checkpoint are known to
belong together."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Key of the digest in a checkpoint. `results.json` has the same.
DIGEST = "weights_digest"


def weights_digest(state: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of the names, types, shapes and values of a state dict's tensors.

    Neither the order of the tensors, their layout in memory nor their device matter.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            values = value.detach().cpu().contiguous().reshape(-1)
            if values.numel():
                digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def load_weights_by_name(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load all weights of a network. Raises RuntimeError, as `load_state_dict` does, unless there are just these.

    They count as weights of this version of each layer: torchvision's MNASNets refuse those without a version.
    """
    versioned = OrderedDict(state)
    versioned._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(versioned)
