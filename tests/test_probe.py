"""What a recipe needs at least, told before it is measured."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastconv import probe
from fastconv.device import Device
from fastconv.models import build_model, count_parameters
from fastconv.probe import Probe, Recipe, least_needs


def device(precision: str) -> Device:
    return Device("cpu", "a processor", precision, threads=1, keep_memory=False, compile=False)


def recipe(norm_batch: int, batch_size: int = 96) -> Recipe:
    return Recipe("davidnet", {"width": 8}, (16, 16, 3), 10, batch_size, norm_batch, True, "sgd")


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_operations_are_those_of_a_forward_pass(monkeypatch, large):
    monkeypatch.setattr(probe, "LARGE_BYTES", large)
    counter = FlopCounterMode(display=False)
    with counter:
        build_model("davidnet", 3, 10, width=8)(torch.randn(96, 3, 16, 16))
    assert least_needs(recipe(48), device("fp32"))[1] == counter.get_total_flops()


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_memory_is_between_that_of_the_convolutions_and_of_all_layers(monkeypatch, large):
    monkeypatch.setattr(probe, "LARGE_BYTES", large)
    model = build_model("davidnet", 3, 10, width=8)
    sizes = {"convolutions": 0, "all": 0}

    def note(layer, inputs, output):
        sizes["all"] += output.numel()
        sizes["convolutions"] += output.numel() * isinstance(layer, torch.nn.Conv2d)

    for layer in model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    model(torch.randn(48, 3, 16, 16))
    weights = 12 * count_parameters(model)  # the weights, their gradients and momenta, four bytes each
    whole, half = (least_needs(recipe(48), device(precision))[0] - weights for precision in ("fp32", "bf16"))
    assert 4 * sizes["convolutions"] < whole < 4 * sizes["all"]
    assert 0.5 * whole <= half < 0.8 * whole
    assert least_needs(recipe(96), device("fp32"))[0] - weights == pytest.approx(2 * whole, rel=0.01)


def test_of_several_looks_the_fastest_counts(monkeypatch, tmp_path):
    seconds = iter([3.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(probe, "_measure", lambda *given: Probe(next(seconds), 0.1, 100.0))

    def look(looks: int) -> float:
        return probe.probe(recipe(48), device("fp32"), tmp_path, looks=looks).step_seconds

    assert [look(1), look(1), look(2), look(2), look(1)] == [3, 3, 1, 1, 1]
    assert look(4) == 1, "two more"
    assert not list(seconds)


def test_the_random_state_stays():
    before = torch.get_rng_state()
    least_needs(recipe(48), device("fp32"))
    assert torch.equal(torch.get_rng_state(), before)
