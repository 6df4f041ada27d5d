"""A user's own optimizers and schedules, by the dotted path of their class."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastconv.optim.param_groups import decay_groups
from fastconv.optim.registry import OPTIMIZERS, Factors, Optimizer
from fastconv.system.errors import InputError
from fastconv.system.settings import EPOCHS, setting
from fastconv.system.targets import KEY, Component, call_target

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class CustomOptimizer(Component):
    """A user's own optimizer, in one of two forms.

    A subclass of `torch.optim.Optimizer` is called with parameter groups, made from `max_lr` and, if it is given,
    `weight_decay` (biases and norms do not decay); the other arguments are passed by keyword. Any other class or
    function is called with all arguments, and returns an object with `build(model, batch_size, precision) ->
    torch.optim.Optimizer`.
    """

    group: ClassVar[str] = "optimizer"

    def build(self, model: "nn.Module", batch_size: int = 1, precision: str = "fp32") -> "torch.optim.Optimizer":
        """Make the optimizer of a network's trainable parameters, at its peak learning rate.

        Raises InputError for arguments that the class refuses, or if the result is not a torch optimizer.
        """
        import torch

        found, said = self.load(), f"optimizer.{KEY}={self.target}"
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
            made: Any = self._of_torch(found, model)
        else:
            builder = call_target(found, said, **self.arguments)
            if not hasattr(builder, "build"):
                raise InputError(f"{said} is neither a torch.optim.Optimizer nor makes an object with a method build")
            made = call_target(builder.build, f"{said}: build", model, batch_size, precision)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(f"{said} builds a {type(made).__name__}: it must build a torch.optim.Optimizer")
        for call, given in (("step(closure)", {"closure": None}), ("step()", {})):
            try:
                inspect.signature(made.step).bind(**given)
            except TypeError as error:
                raise InputError(f"{said} has a step that cannot be called as {call}: {error}") from error
        for group in made.param_groups:
            if "lr" not in group:
                raise InputError(f"{said} has a parameter group without lr: a schedule has nothing to set")
            group.setdefault("max_lr", group["lr"])
            for key, value in group.items():
                if isinstance(value, np.generic):  # a checkpoint with numbers of numpy could not be read
                    group[key] = value.item()
        return made

    def _of_torch(self, found: "type[torch.optim.Optimizer]", model: "nn.Module") -> "torch.optim.Optimizer":
        said, arguments = f"optimizer.{KEY}={self.target}", self.arguments
        known = inspect.signature(found).parameters
        max_lr = arguments.pop("max_lr", None)
        if max_lr is None:
            raise InputError(f"{said} needs its peak learning rate: set optimizer.max_lr")
        takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
        if "weight_decay" in arguments and "weight_decay" not in known and not takes_any:
            raise InputError(f"{said} has no weight_decay: leave out optimizer.weight_decay")
        decays = "weight_decay" in arguments
        groups = decay_groups(model, max_lr, arguments.pop("weight_decay", 0.0))
        if not decays:  # weights keep the optimizer's own default
            for group in groups:
                if any(parameter.ndim > 1 for parameter in group["params"]):
                    del group["weight_decay"]
        if "lr" in known:
            arguments["lr"] = max_lr
        made: torch.optim.Optimizer = call_target(found, said, groups, **arguments)
        return made


@dataclass
class CustomSchedule(Component):
    """A user's own schedule: a class whose instances have `factors(progress) -> Factors`; a class whose instances are
    called with the progress and return the factor of the learning rate; or a function of the progress and the
    arguments."""

    group: ClassVar[str] = "schedule"

    max_epochs: float | None = setting(25, EPOCHS)
    """Passes over the training images after which the run ends, if the budget allows; null for no bound."""

    @cached_property
    def _curve(self) -> Callable[[float], Any]:
        found, said = self.load(), f"schedule.{KEY}={self.target}"
        if not isinstance(found, type):
            try:
                inspect.signature(found).bind(0.0, **self.arguments)
            except TypeError as error:
                raise InputError(f"{said}: {error}") from error
            return functools.partial(found, **self.arguments)
        made = call_target(found, said, **self.arguments)
        curve: Callable[[float], Any] = getattr(made, "factors", made)
        if not callable(curve):
            raise InputError(f"{said}: its instances neither have factors(progress) nor can be called")
        return curve

    def factors(self, progress: float) -> Factors:
        """The factors at a progress in [0, 1]."""
        found = self._curve(progress)
        # Numbers of numpy would go into the checkpoint, which could then not be read.
        lr, *others = found if isinstance(found, tuple) else (found,)
        return Factors(float(lr), *(None if each is None else float(each) for each in others))

    def check(self) -> None:
        """Raise InputError for a class that cannot be used, or for factors that are negative or not numbers."""
        for progress in (percent / 100 for percent in range(101)):
            try:
                lr = self.factors(progress).lr
            except InputError:
                raise
            except Exception as error:  # the user's code may raise anything
                raise InputError(f"schedule.{KEY}={self.target} fails at progress {progress}: {error}") from error
            if not (math.isfinite(lr) and lr >= 0):
                raise InputError(f"schedule.{KEY}={self.target} gives {lr} at progress {progress}: give 0 or more")


def optimizer_key(optimizer: Optimizer) -> str | dict[str, Any]:
    """The values that an optimizer's speed depends on: its name, or all settings of a user's own optimizer."""
    return optimizer.settings if isinstance(optimizer, CustomOptimizer) else optimizer.name


def optimizer_of(key: str | Mapping[str, Any]) -> Optimizer:
    """The optimizer for a value of `optimizer_key`; one of this package has its default settings."""
    if isinstance(key, str):
        return OPTIMIZERS[key]()
    return CustomOptimizer.taking(each for each in key if each != KEY)(**key)
