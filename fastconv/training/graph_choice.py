"""Whether the training step of a run is a CUDA graph (`trainer.graph`)."""

from collections.abc import Iterable

import lightning as L

from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.models import CustomNetwork
from fastconv.optim import SGD, AdamW, Muon
from fastconv.system.errors import InputError
from fastconv.training.own_hooks import has_own

# Hooks that Lightning calls in the middle of a step.
STEP_HOOKS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


def choose_graph(config: Config, device: Device, callbacks: Iterable[L.Callback]) -> tuple[bool, str]:
    """Return whether the step is a graph, and if not, why; without a reason where nobody would expect one.

    Args:
        callbacks: the user's own.

    Raises InputError for trainer.graph=on where a graph is not possible.
    """
    wanted = config.trainer.graph
    if wanted == "off":
        return False, ""
    why = obstacle(config, device, callbacks)
    if wanted == "on":
        if why:
            raise InputError(f"trainer.graph=on is not possible: {why}. Use trainer.graph=auto")
        return True, ""
    if why is None and isinstance(config.model, CustomNetwork):
        why = "it is not known whether all that your network does is done on the GPU; trainer.graph=on tries it"
    return why is None, (why or "") if device.kind == "cuda" else ""


def obstacle(config: Config, device: Device, callbacks: Iterable[L.Callback]) -> str | None:
    """Why a step cannot be a graph; None if nothing is known that forbids it."""
    if device.kind != "cuda":
        return "it is for GPUs"
    if config.trainer.world > 1 or config.trainer.strategy != "auto":
        return "several devices exchange gradients within a step (trainer.devices, trainer.strategy)"
    if not isinstance(config.optimizer, SGD | AdamW | Muon):
        return "it is not known whether your own optimizer reads its learning rates on the GPU"
    if getattr(config.schedule, "cycle_momentum", False) and not isinstance(config.optimizer, Muon):
        return f"schedule.cycle_momentum changes the momentum, which {config.optimizer.name} reads on the host"
    for callback in callbacks:
        hooks = [hook for hook in STEP_HOOKS if has_own(callback, hook, L.Callback)]
        if hooks:
            return f"{type(callback).__name__}.{hooks[0]} is called within a step"
    return None
