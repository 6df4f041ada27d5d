"""Finds the hooks that callbacks and modules override, so that a step calls no hook that does nothing."""

from collections.abc import Callable
from typing import Any

import lightning as L


def has_own(owner: object, hook: str, base: type) -> bool:
    """Whether an object overrides a hook of a base class, in its class or as an attribute of its own."""
    call = getattr(owner, hook)
    return callable(call) and getattr(call, "__func__", call) is not getattr(base, hook)


class OwnHooks:
    """Calls the hooks that the callbacks of a module's Trainer override.

    It looks for them again when the Trainer's list of callbacks has changed.

    Args:
        module: it is trained by a Trainer.
    """

    def __init__(self, module: L.LightningModule) -> None:
        self._module, self._trainer = module, module.trainer
        self._callbacks: list[L.Callback] = []
        self._found: dict[str, list[Callable[..., object]]] = {}

    def of(self, hook: str) -> list[Callable[..., object]]:
        """A hook of all callbacks that have it, in their order."""
        callbacks = self._trainer.callbacks  # type: ignore[attr-defined]
        if callbacks != self._callbacks:
            self._callbacks, self._found = list(callbacks), {}
        if hook not in self._found:
            self._found[hook] = [getattr(each, hook) for each in callbacks if has_own(each, hook, L.Callback)]
        return self._found[hook]

    def call(self, hook: str, *arguments: Any) -> None:
        """Call a hook of all callbacks, as Lightning does: what they log belongs to the hook."""
        calls = self.of(hook)
        if not calls:
            return
        trainer, module = self._trainer, self._module
        before, module._current_fx_name = module._current_fx_name, hook
        for call in calls:
            call(trainer, module, *arguments)
        module._current_fx_name = before
