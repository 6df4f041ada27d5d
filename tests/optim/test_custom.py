"""Optimizers of a user's own that do not fit are told in one line, before a run begins."""

import sys
from types import ModuleType

import pytest
import torch

from fastconv.optim.custom import CustomOptimizer
from fastconv.system.errors import InputError


class SGD(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr)


class NoClosure(SGD):
    def step(self):
        pass


class Needs(SGD):
    def step(self, closure, more):
        pass


class Fits(SGD):
    def step(self, closure=None):
        return super().step(closure)


class NoRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


class Builder:
    def __init__(self, made=Fits):
        self.made = made

    def build(self, model, batch_size, precision):
        return self.made(model.parameters(), 0.1)


class ShortBuilder(Builder):
    def build(self, model):
        return None


class NoneBuilder(Builder):
    def build(self, model, batch_size, precision):
        return None


class NoRateBuilder(Builder):
    def build(self, model, batch_size, precision):
        return NoRate(model.parameters())


@pytest.fixture
def theirs(monkeypatch):
    """Make the classes above a module that a setting can name."""
    module = ModuleType("theirs")
    vars(module).update({name: value for name, value in globals().items() if isinstance(value, type)})
    monkeypatch.setitem(sys.modules, "theirs", module)

    def build(name, **arguments):
        settings = CustomOptimizer.taking(arguments)(_target_=f"theirs.{name}", **arguments)
        return settings.build(torch.nn.Linear(2, 2), 4, "fp32")

    return build


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("ShortBuilder", {}, "build too many positional arguments; it takes model"),
        ("NoneBuilder", {}, "builds a NoneType: it must build a torch.optim.Optimizer"),
        ("NoClosure", {"max_lr": 0.1}, "has a step that cannot be called as step(closure)"),
        ("Needs", {"max_lr": 0.1}, "has a step that cannot be called as step(closure)"),
        ("NoRateBuilder", {}, "has a parameter group without lr"),
    ],
)
def test_what_does_not_fit_is_named(theirs, name, arguments, says):
    with pytest.raises(InputError) as error:
        theirs(name, **arguments)
    assert str(error.value).startswith(f"optimizer._target_=theirs.{name}")
    assert says in str(error.value)


def test_what_fits_is_built(theirs):
    assert isinstance(theirs("Fits", max_lr=0.1), Fits)
    assert isinstance(theirs("Builder"), Fits)
