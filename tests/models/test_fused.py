"""Norms and GELUs that are computed together: where they are, and that a network learns the same."""

import copy

import pytest
import torch
from torch import nn

from fastconv.kernels import norm_gelu
from fastconv.kernels.winograd import direct_convolutions, obstacle, use_winograd
from fastconv.models import build_model
from fastconv.models.airbench import Norm
from fastconv.models.fused import FusedSequential, activate, norm_activation


@pytest.fixture(autouse=True)
def possible():
    if obstacle() or norm_gelu.obstacle():
        pytest.skip("there is no library here")
    torch.manual_seed(0)
    use_winograd(True)


@pytest.fixture
def taken(monkeypatch):
    """Names of what was computed by the library."""
    names = []
    for name in ("gelu", "norm_gelu"):
        function = getattr(norm_gelu, name)
        monkeypatch.setattr(
            norm_gelu, name, lambda *given, _name=name, _of=function, **more: names.append(_name) or _of(*given, **more)
        )
    return names


def image_maps(channels=16, images=8, side=6):
    return torch.randn(images, side, side, channels).permute(0, 3, 1, 2)


def norm_of(channels=16):
    norm = Norm(channels, momentum=0.4)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_with_gelu_equals_torchs(taken, training):
    norm = norm_of().train(training)
    norm.running_mean.normal_()
    x = image_maps().requires_grad_()
    other, y = copy.deepcopy(norm), x.detach().clone().requires_grad_()
    found, expected = norm_activation(norm, nn.GELU(), x), nn.functional.gelu(other(y))
    assert taken == ["norm_gelu"]
    assert torch.allclose(found, expected, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)
    assert torch.allclose(norm.bias.grad, other.bias.grad, rtol=1e-4)
    for name, value in other.state_dict().items():
        assert torch.allclose(norm.state_dict()[name], value, atol=1e-6), name
    assert norm.num_batches_tracked == (1 if training else 0)


def hooked(layer):
    layer.register_forward_hook(lambda *given: None)
    return layer


def with_weight(norm, value):
    nn.init.constant_(norm.weight, value)
    return norm


class Doubled(Norm):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("norm", "activation"),
    [
        (nn.BatchNorm2d(16), nn.GELU()),
        (with_weight(norm_of(), 0.5), nn.GELU()),
        (norm_of().requires_grad_(True), nn.GELU()),
        (hooked(norm_of()), nn.GELU()),
        (norm_of(), hooked(nn.GELU())),
        (norm_of(), nn.GELU(approximate="tanh")),
        (norm_of(), nn.SiLU()),
        (Doubled(16, momentum=0.4), nn.GELU()),
        (Norm(16, momentum=None), nn.GELU()),
        (nn.BatchNorm2d(16, affine=False), nn.GELU()),
        (nn.BatchNorm2d(16, track_running_stats=False), nn.GELU()),
        (norm_of(12), nn.GELU()),
    ],
)
def test_other_norms_and_activations_are_computed_by_torch(taken, norm, activation):
    norm = copy.deepcopy(norm)
    x = image_maps(norm.num_features)
    other = copy.deepcopy(norm)
    assert torch.allclose(norm_activation(norm, activation, x), activation(other(x)), atol=1e-5)
    assert "norm_gelu" not in taken
    assert norm.num_batches_tracked is None or torch.equal(norm.num_batches_tracked, other.num_batches_tracked)


@pytest.mark.parametrize("why", ["contiguous", "float64", "bf16", "direct", "traced", "empty"])
def test_other_maps_are_computed_by_torch(taken, why):
    norm, x = norm_of(), image_maps()
    if why == "contiguous":
        x = x.contiguous()
    if why == "float64":
        norm, x = norm.double(), x.double()
    if why == "empty":
        norm, x = norm.eval(), x[:0]
    layers = FusedSequential(norm, nn.GELU())
    if why == "traced":
        torch.jit.trace(layers, x, check_trace=False)
    elif why == "direct":
        with direct_convolutions():
            layers(x)
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=why == "bf16"):
            assert torch.equal(layers.eval()(x), nn.functional.gelu(norm(x)))
    assert not taken


def test_a_single_pixel_has_no_variance():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_activation(norm_of(), nn.GELU(), image_maps(images=1, side=1))


def test_hooks_see_each_layer(taken):
    """Also those of all modules, as profilers register them."""
    layers, seen = FusedSequential(norm_of(), nn.GELU()), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *given: seen.append(type(module)))
    try:
        layers(image_maps())
    finally:
        handle.remove()
    assert seen == [Norm, nn.GELU, FusedSequential]
    assert not taken


def test_a_hook_on_layers_sees_their_result(taken):
    layers, seen, x = FusedSequential(norm_of()), [], image_maps()
    assert torch.allclose(layers.then(nn.GELU(), x), nn.functional.gelu(layers(x)), atol=1e-5)
    assert taken == ["norm_gelu"]
    layers.register_forward_hook(lambda module, given, out: seen.append(out))
    out = layers.then(nn.GELU(), x)
    assert torch.allclose(out, nn.functional.gelu(seen[0]), atol=1e-6)
    assert taken == ["norm_gelu", "gelu"]


def learn(model, x, labels, steps=3):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.state_dict() | {"logits": model.eval()(x).detach()}


@pytest.mark.parametrize(
    ("settings", "norms", "gelus"), [({}, 6, 1), ({"convs": 3, "residual": True}, 6, 4), ({"convs": 1}, 3, 1)]
)
def test_a_network_learns_the_same(taken, monkeypatch, settings, norms, gelus):
    """`norms` and `gelus` are those that the library computes in each of four passes."""
    model = build_model("airbench", 3, 10, widths=[16, 24, 24], **settings).to(memory_format=torch.channels_last)
    x, labels = torch.randn(48, 16, 16, 3).permute(0, 3, 1, 2), torch.randint(10, (48,))
    ours, again = learn(model, x, labels), learn(model, x, labels)
    assert (taken.count("norm_gelu"), taken.count("gelu")) == (2 * 4 * norms, 2 * 4 * gelus)
    monkeypatch.setattr(norm_gelu, "suits", lambda x: False)
    taken.clear()
    torchs = learn(model, x, labels)
    assert not taken
    assert list(ours) == list(torchs)
    for name, expected in torchs.items():
        assert torch.equal(ours[name], again[name])
        assert (ours[name] - expected).float().norm() <= 1e-3 * expected.float().norm() + 1e-6, name


def test_a_frozen_activation_needs_no_gradient(taken):
    x = image_maps()
    assert not activate(nn.GELU(), x).requires_grad
    assert taken == ["gelu"]


@pytest.mark.slow
def test_an_export_has_operators_that_others_know():
    exported = torch.export.export(FusedSequential(norm_of(), nn.GELU()).eval(), (image_maps(),))
    assert not any("fastconv" in str(node.target) for node in exported.graph.nodes)
