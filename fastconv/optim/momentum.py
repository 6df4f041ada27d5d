"""The momentum of a parameter group, whatever its optimizer calls it."""

from typing import Any


def momentum_of(group: dict[str, Any]) -> float:
    """Its momentum, or Adam's first beta; 0 for an optimizer without any."""
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set its momentum, or Adam's first beta."""
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
