"""The momentum of a parameter group: `momentum`, or Adam's first beta."""

from typing import Any


def momentum_of(group: dict[str, Any]) -> float:
    """The group's momentum, or Adam's first beta; 0 for an optimizer without momentum."""
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set the group's momentum, or Adam's first beta."""
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
