"""The gradient of a convolution's weights on small maps, against torch's own."""

import pytest
import torch
from torch import nn

from fastconv.models import build_model
from fastconv.models import layers as convolution
from fastconv.models.layers import Convolution


def gradients(layer: nn.Module, x: torch.Tensor, towards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(inputs)
    output.backward(towards)
    return inputs.grad, layer.weight.grad


@pytest.mark.parametrize(("height", "width", "inputs"), [(1, 1, 16), (3, 3, 16), (4, 7, 24), (7, 7, 128), (8, 5, 130)])
def test_gradients_are_those_of_exact_arithmetic(monkeypatch, height, width, inputs):
    torch.manual_seed(0)
    layer = Convolution(inputs, 20).to(memory_format=torch.channels_last)
    # Values that bf16 holds, so that only the rounding of the sums remains.
    layer.weight.data = layer.weight.data.bfloat16().float()
    x = torch.randn(6, inputs, height, width).bfloat16().float().to(memory_format=torch.channels_last)
    towards = torch.randn(6, 20, height, width).bfloat16()
    taken = []
    of = convolution._of_weight
    monkeypatch.setattr(convolution, "_of_weight", lambda *given: taken.append(1) or of(*given))
    of_x, of_weight = gradients(layer, x, towards)
    assert taken
    exact = nn.Conv2d(inputs, 20, 3, padding=1, bias=False).double()
    exact.weight.data = layer.weight.data.double()
    exact_x = x.double().requires_grad_()
    exact(exact_x).backward(towards.double())
    for found, wanted in ((of_x, exact_x.grad), (of_weight, exact.weight.grad)):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() < 5e-3 * wanted.norm()
    assert layer.weight.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("why", ["large map", "few channels", "fp32", "contiguous", "1x1", "nothing to learn"])
def test_elsewhere_it_is_the_layer_of_torch(monkeypatch, why):
    monkeypatch.setattr(convolution._SmallMap, "apply", lambda *given: pytest.fail("not here"))
    inputs, side = 32 if why == "few channels" else 128, 9 if why == "large map" else 8
    layer = Convolution(inputs, 16, 1 if why == "1x1" else 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, inputs, side, side)
    if why != "contiguous":
        x = x.to(memory_format=torch.channels_last)
    layer.weight.requires_grad_(why != "nothing to learn")
    with torch.autocast("cpu", torch.bfloat16, enabled=why != "fp32"):
        found, wanted = layer(x), nn.functional.conv2d(x, layer.weight, padding=layer.padding)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("name", "settings"), [("airbench", {"widths": [32, 128, 128]}), ("davidnet", {"width": 32})])
def test_a_network_learns_the_same_with_and_without(monkeypatch, name, settings):
    torch.manual_seed(0)
    model = build_model(name, 3, 10, **settings).to(memory_format=torch.channels_last)
    x, labels = torch.randn(16, 32, 32, 3).permute(0, 3, 1, 2), torch.randint(10, (16,))

    def learn() -> list[torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    fast = learn()
    monkeypatch.setattr(Convolution, "_is_slow", lambda *given: False)
    slow = learn()
    assert not all(torch.equal(*pair) for pair in zip(fast, slow, strict=True)), "some layers are another way round"
    for found, wanted in zip(fast, slow, strict=True):
        assert (found - wanted).norm() <= 1e-2 * wanted.norm()
