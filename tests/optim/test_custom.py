"""Optimizers of a user's own that do not fit are told in one line, before a run begins."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from fastconv.optim.custom import CustomOptimizer, CustomSchedule
from fastconv.optim.registry import Factors
from fastconv.system.errors import InputError
from fastconv.system.settings import check_settings


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


class OnlyClosure(SGD):
    """As torch's LBFGS, which computes the gradients itself."""

    def step(self, closure):
        return super().step(closure)


class PassesOn(torch.optim.SGD):
    def __init__(self, params, **settings):
        super().__init__(params, **settings)


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
        ("OnlyClosure", {"max_lr": 0.1}, "has a step that cannot be called as step(): missing a required argument"),
        ("SGD", {"max_lr": 0.1, "weight_decay": 0.1}, "has no weight_decay: leave out optimizer.weight_decay"),
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


def test_settings_that_a_class_passes_on_reach_it(theirs):
    weights, biases = theirs("PassesOn", max_lr=0.1, weight_decay=0.01, momentum=0.8).param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (0.01, 0)
    assert [(group["lr"], group["momentum"]) for group in (weights, biases)] == [(0.1, 0.8)] * 2


class NumpyBuilder(Builder):
    def build(self, model, batch_size, precision):
        return torch.optim.SGD(model.parameters(), lr=0.1 * np.sqrt(batch_size), momentum=np.float64(0.9))


class NumpyCurve:
    def factors(self, progress):
        return Factors(np.float64(1 - progress), np.float32(0.5))


def test_numbers_of_numpy_become_plain_for_the_checkpoint(theirs):
    (group,) = theirs("NumpyBuilder").param_groups
    factors = CustomSchedule(_target_="theirs.NumpyCurve").factors(0.25)
    assert {key: group[key] for key in ("lr", "max_lr", "momentum")} == {"lr": 0.2, "max_lr": 0.2, "momentum": 0.9}
    assert {type(value) for value in (group["lr"], group["max_lr"], group["momentum"], *factors)} == {float}
    assert factors == Factors(0.75, 0.5)


class Wave:
    """At the peak at progress 0, 0.5 and 1, and below zero between them."""

    def __call__(self, progress):
        return math.cos(4 * math.pi * progress)


def test_a_schedule_is_checked_between_its_ends(theirs):
    with pytest.raises(InputError, match=r"^schedule._target_=theirs.Wave gives -0.* at progress 0.13: give 0 or more"):
        CustomSchedule(_target_="theirs.Wave").check()


@pytest.mark.parametrize("epochs", [0, -1, float("inf"), float("nan")])
def test_the_epochs_of_an_own_schedule_have_the_range_of_others(epochs):
    with pytest.raises(InputError, match=r"^schedule.max_epochs=.* is not possible: give a number of epochs in"):
        check_settings(CustomSchedule(_target_="theirs.Wave", max_epochs=epochs), "schedule.")
