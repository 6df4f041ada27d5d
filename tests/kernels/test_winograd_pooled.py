"""Winograd's convolutions with a max-pool of 2x2 pixels in one operation, against float64 and against the two."""

import copy
import random
from itertools import pairwise

import pytest
import torch
from torch import nn

from fastconv.kernels import winograd
from fastconv.kernels.winograd import winograd_conv2d, winograd_conv2d_pooled
from fastconv.models import build_model
from fastconv.models.fused import FusedSequential
from fastconv.models.layers import Convolution

LIMIT = 2e-5  # of relative errors
SHAPES = [  # images, inputs, outputs, height, width, padding
    (1, 1, 1, 2, 2, 1),
    (2, 3, 5, 4, 6, 1),
    (3, 17, 33, 7, 5, 1),
    (2, 24, 40, 31, 9, 1),
    (2, 8, 16, 9, 13, 0),
    (2, 16, 9, 5, 4, 2),
    (300, 2, 7, 3, 4, 1),
    (1, 130, 100, 5, 8, 1),
]


@pytest.fixture(autouse=True)
def possible():
    if why := winograd.obstacle():
        pytest.skip(why)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(memory_format=torch.channels_last)


def passes(compute, x, weight, gradient):
    """A result and the gradients of its input and weights."""
    ours = x.clone(memory_format=torch.preserve_format).requires_grad_(), weight.clone().requires_grad_()
    out = compute(*ours)
    return out.detach(), *torch.autograd.grad(out, ours, gradient)


def fused(padding, tile):
    return lambda x, weight: winograd_conv2d_pooled(x, weight, padding, tile)[0]


def separate(padding, tile):
    return lambda x, weight: nn.functional.max_pool2d(winograd_conv2d(x, weight, padding, tile), 2)


def given(images, inputs, outputs, height, width, padding):
    sides = [(side + 2 * padding - 2) // 2 for side in (height, width)]
    return noise(images, inputs, height, width), noise(outputs, inputs, 3, 3, seed=1), noise(images, outputs, *sides)


def exact(x, weight, gradient, padding, index, tile):
    """In float64: the maxima and gradients for pixels that were taken: fp32 may decide otherwise between near ones."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    out = torch.conv2d(x, weight, padding=padding)
    maxima = nn.functional.max_pool2d(out, 2)
    rows, columns = (torch.arange(side) for side in maxima.shape[2:])
    rows, columns, half = rows[:, None], columns[None, :], tile // 2
    marks = index[:, :, rows // half, columns // half] >> 2 * (rows % half * half + columns % half) & 3
    pixels = (2 * rows + marks // 2) * out.shape[3] + 2 * columns + marks % 2
    taken = out.flatten(2).gather(2, pixels.flatten(2)).view_as(maxima)
    return maxima.detach(), taken.detach(), *torch.autograd.grad(taken, (x, weight), gradient.double())


def check(shape, tile):
    x, weight, gradient = given(*shape)
    padding = shape[-1]
    index = winograd_conv2d_pooled(x, weight, padding, tile)[1]
    maxima, taken, *gradients = exact(x, weight, gradient, padding, index, tile)
    found = passes(fused(padding, tile), x, weight, gradient)
    assert found[0].shape == maxima.shape
    assert (taken - maxima).abs().max() < 1e-4 * maxima.abs().max()
    for one, other in zip(found, (maxima, *gradients), strict=True):
        assert (one.double() - other).norm() < LIMIT * other.norm(), shape
    for one, other in zip(found, passes(separate(padding, tile), x, weight, gradient), strict=True):
        assert torch.equal(one, other), shape


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_those_of_float64_and_of_two_operations(shape, tile):
    check(shape, tile)


@pytest.mark.slow
def test_random_shapes_give_the_results_of_float64_and_of_two_operations():
    draw = random.Random(0)
    try:
        for _ in range(100):
            images, padding = draw.choice((1, 2, 5, 17, 64)), draw.choice((0, 1, 2))
            channels = [round(300 ** draw.random()) for _ in range(2)]
            sides = [draw.randint(max(2, 4 - 2 * padding), 33 if images < 17 else 9) for _ in range(2)]
            torch.set_num_threads(draw.randint(1, 3))
            check((images, *channels, *sides, padding), draw.choice((2, 4)))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("tile", [2, 4])
def test_of_equal_pixels_the_first_is_taken(tile):
    """As by torch: an even input gives equal outputs, and none of them is positive."""
    x, weight = torch.zeros(2, 3, 8, 6).to(memory_format=torch.channels_last), noise(20, 3, 3, 3)
    maxima, index = winograd_conv2d_pooled(x, weight, 1, tile)
    assert torch.equal(maxima, torch.zeros(2, 20, 4, 3))
    assert not index.any()
    gradient = noise(2, 20, 4, 3)
    pairs = zip(
        passes(fused(1, tile), x, weight, gradient), passes(separate(1, tile), x, weight, gradient), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_to_be_seen(tile, value):
    x, weight, gradient = given(1, 3, 20, 12, 12, 1)
    x[0, 1, 5, 6] = value
    found = passes(fused(1, tile), x, weight, gradient)
    wanted = passes(separate(1, tile), x, weight, gradient)
    assert found[0].isnan().any()
    assert not found[0].isnan().all()
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.nan_to_num(123), other.nan_to_num(123))


def test_results_are_equal_bit_by_bit_whatever_the_threads():
    x, weight, gradient = given(9, 24, 40, 11, 6, 1)
    found = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            found.append(passes(fused(1, 4), x, weight, gradient))
    finally:
        torch.set_num_threads(1)
    for one, other in pairwise(found):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_map_of_one_row_cannot_be_pooled():
    with pytest.raises(ValueError, match="fewer than 2x2 pixels"):
        winograd_conv2d_pooled(noise(2, 3, 3, 9), noise(5, 3, 3, 3), 0, 4)


def test_the_operator_keeps_to_torchs_rules():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    x, weight, gradient = given(2, 16, 3, 7, 6, 1)
    operators = torch.ops.fastconv
    weighted = x.clone(memory_format=torch.preserve_format).requires_grad_(), weight.clone().requires_grad_()
    torch.library.opcheck(operators.winograd_conv2d_pooled.default, (*weighted, 1, 4), test_utils=checks)
    index = winograd_conv2d_pooled(x, weight, 1, 4)[1]
    for operator, arguments in (
        (operators.winograd_conv2d_pooled_input, (gradient, index, weight, 7, 6)),
        (operators.winograd_conv2d_pooled_weight, (gradient, index, x)),
    ):
        torch.library.opcheck(operator.default, (*arguments, 1, 4), test_utils=checks[::2])


def test_which_pixels_were_taken_has_no_gradient():
    maxima, index = winograd_conv2d_pooled(*(each.requires_grad_() for each in given(2, 3, 5, 6, 6, 1)[:2]), 1, 4)
    assert maxima.requires_grad
    assert not index.requires_grad


@pytest.fixture
def count(monkeypatch):
    """Calls of the fused operation by fused layers."""
    calls = []
    monkeypatch.setattr(
        "fastconv.models.fused.winograd_conv2d_pooled",
        lambda *given: calls.append(1) or winograd_conv2d_pooled(*given),
    )
    winograd.use_winograd(True)
    return calls


def layers(pool=None):
    torch.manual_seed(0)
    first = Convolution(16, 24).to(memory_format=torch.channels_last)
    return FusedSequential(first, pool or nn.MaxPool2d(2), nn.BatchNorm2d(24)), noise(8, 16, 12, 12)


def test_layers_compute_them_at_once(count):
    network, x = layers()
    found = network(x)
    assert len(count) == 1
    assert torch.equal(found, nn.Sequential(*network)(x))
    assert len(count) == 1
    assert isinstance(copy.deepcopy(network), nn.Sequential)
    assert list(network.state_dict())[:2] == ["0.weight", "2.weight"]


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_see_the_map_between(count, at, kind):
    network, x = layers()
    seen = []
    handle = getattr(network[at], f"register_{kind}")(lambda *given: seen.append(1))
    network(x.requires_grad_()).sum().backward()
    assert seen
    assert not count
    handle.remove()
    network(x)
    assert count


def test_hooks_of_all_layers_see_the_map_between(count):
    network, x = layers()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *given: seen.append(type(layer)))
    try:
        network(x)
    finally:
        handle.remove()
    assert nn.MaxPool2d in seen
    assert not count


@pytest.mark.parametrize(
    "why", ["off", "stride", "window", "ceil", "indices", "other pool", "forward", "float64", "parametrized"]
)
def test_elsewhere_they_are_two_operations(count, why):
    pools = {
        "stride": nn.MaxPool2d(2, 1),
        "window": nn.MaxPool2d(3, 2),
        "ceil": nn.MaxPool2d(2, ceil_mode=True),
        "other pool": nn.AvgPool2d(2),
        "indices": nn.MaxPool2d(2, return_indices=True),
    }
    network, x = layers(pools.get(why))
    if why == "off":
        winograd.use_winograd(False)
    if why == "forward":
        network[1].forward = lambda x: nn.functional.max_pool2d(x, 2)
    if why == "float64":
        network, x = network.double(), x.double()
    if why == "parametrized":
        nn.utils.parametrizations.weight_norm(network[0])
    (network[:2] if why == "indices" else network)(x)
    assert not count


@pytest.mark.parametrize(
    ("name", "settings", "fused_layers"),
    [
        ("airbench", {"widths": [32, 64]}, 2),
        ("davidnet", {"width": 16, "pool_before_norm": True}, 3),
        ("davidnet", {"width": 16}, 0),
    ],
)
def test_networks_are_the_same_bit_by_bit(count, name, settings, fused_layers):
    torch.manual_seed(0)
    network = build_model(name, 3, 10, **settings).to(memory_format=torch.channels_last)
    x = noise(48, 3, 16, 16)

    def learn():
        network.zero_grad()
        network(x).square().sum().backward()
        return [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]

    found = learn()
    assert len(count) == fused_layers
    hooks = [
        layer.register_forward_hook(lambda *given: None)
        for layer in network.modules()
        if isinstance(layer, nn.MaxPool2d)
    ]
    wanted = learn()
    assert len(count) == fused_layers
    assert len(hooks) >= fused_layers
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_an_export_has_layers_that_others_know(count):
    network, x = layers()
    graph = torch.export.export(network.eval(), (x,)).graph
    names = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert {"aten.conv2d.default", "aten.max_pool2d.default"} <= names
    assert not count


@pytest.mark.slow
def test_torch_compiles_them():
    network, x = layers()
    expected = network(x)
    assert torch.allclose(torch.compile(network, backend="aot_eager", fullgraph=True)(x), expected, atol=1e-5)
