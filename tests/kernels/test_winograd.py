"""Winograd's convolutions against float64, and where they are used."""

import copy
import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastconv.kernels import library, norm_gelu, winograd, winograd_library
from fastconv.kernels.winograd import tile_of, winograd_conv2d
from fastconv.models import build_model
from fastconv.models.layers import Convolution, winograd_layers

LIMIT = 2e-5  # of relative errors
NETWORKS = [
    ("davidnet", {}),
    ("airbench", {}),
    ("airbench", {"widths": [16, 64, 64]}),
    ("airbench", {"widths": [32, 128, 128]}),
    ("resnet18", {}),
]


@pytest.fixture(autouse=True)
def possible():
    if why := winograd.obstacle():
        pytest.skip(why)


def errors(images, inputs, outputs, height, width, padding, tile, threads=1):
    """Relative errors of a convolution and its two gradients, against float64."""
    draw = torch.Generator().manual_seed(images * inputs + outputs)
    x = torch.randn(images, inputs, height, width, generator=draw).to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3, generator=draw).to(memory_format=torch.channels_last)
    wide = x.double().requires_grad_(), weight.double().requires_grad_()
    exact = torch.conv2d(*wide, padding=padding)
    gradient = torch.randn(exact.shape, generator=draw)
    exact.backward(gradient.double())
    ours = x.requires_grad_(), weight.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = winograd_conv2d(*ours, padding, tile)
        found.backward(gradient)
    finally:
        torch.set_num_threads(before)
    assert found.shape == exact.shape
    pairs = [(found.detach(), exact.detach())]
    pairs += [(one.grad, other.grad) for one, other in zip(ours, wide, strict=True)]
    return [float((one.double() - other).norm() / other.norm()) for one, other in pairs]


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1, 1),
        (1, 3, 5, 3, 3, 0),
        (2, 8, 16, 4, 4, 1),
        (3, 17, 33, 7, 5, 1),
        (5, 24, 6, 9, 2, 1),
        (2, 31, 40, 6, 13, 0),
        (300, 2, 7, 3, 4, 1),
        (2, 260, 100, 5, 5, 1),
        (1, 16, 16, 2, 2, 2),
    ],
)
def test_errors_are_those_of_fp32(shape, tile):
    assert max(errors(*shape, tile)) < LIMIT


@pytest.mark.slow
def test_errors_of_random_shapes_are_those_of_fp32():
    draw = random.Random(0)
    for _ in range(200):
        shape = [draw.choice((1, 2, 5, 17, 64, 300)), *(round(600 ** draw.random()) for _ in range(2))]
        sides = [draw.randint(1, 33 if shape[0] < 64 else 9) for _ in range(2)]
        padding = draw.choice((0, 1)) if min(sides) > 2 else 1
        assert max(errors(*shape, *sides, padding, draw.choice((2, 4)), draw.randint(1, 3))) < LIMIT, (shape, sides)


def shapes(name, settings):
    """The convolutions of a network that may be Winograd's: inputs, outputs, height, width of the map."""
    network, found = build_model(name, 3, 10, **settings), set()
    for layer in network.modules():
        if isinstance(layer, Convolution) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda layer, given, out: found.add((*given[0].shape[1:], out.shape[1])))
    with torch.no_grad():
        network(torch.zeros(2, 3, 32, 32))
    return sorted((inputs, outputs, height, width) for inputs, height, width, outputs in found)


@pytest.mark.slow
def test_errors_in_networks_are_those_of_fp32():
    every = {shape for name, settings in NETWORKS for shape in shapes(name, settings)}
    assert len(every) > 20
    for inputs, outputs, height, width in every:
        for tile in (2, 4):
            assert max(errors(16, inputs, outputs, height, width, 1, tile)) < LIMIT, (inputs, outputs, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_sanitizers_find_nothing(tmp_path, lanes):
    """With vectors of each length, on memory without a byte to spare, against plain loops in double."""
    program = tmp_path / "sanitized"
    options = ("-std=gnu11", "-O1", "-g", "-fopenmp", f"-DLANES={lanes}", "-Wno-psabi", "-march=native", "-lm")
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    files = (f"-I{winograd_library.SOURCE.parent}", str(Path(__file__).with_name("sanitized.c")))
    built = subprocess.run([*library.find_compiler(), *checks, *files, *options, "-o", program], capture_output=True)
    if b"sanitize" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr.decode()
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # three threads may share a core
    run = subprocess.run([program, "70"], capture_output=True, text=True, timeout=3600, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "70 shapes\n"


@pytest.mark.parametrize("shape", [(9, 24, 40, 7, 6), (30, 64, 64, 5, 5)])
def test_results_are_equal_bit_by_bit_whatever_the_threads(shape):
    images, inputs, outputs, height, width = shape
    torch.manual_seed(0)
    x = torch.randn(images, inputs, height, width).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(outputs, inputs, 3, 3, requires_grad=True)
    found = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            out = winograd_conv2d(x, weight, 1, 4)
            found.append((out, *torch.autograd.grad(out.square().sum(), (x, weight))))
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def layer_and_map(inputs=16, outputs=24, side=12, images=8):
    torch.manual_seed(0)
    layer = Convolution(inputs, outputs).to(memory_format=torch.channels_last)
    return layer, torch.randn(images, inputs, side, side).to(memory_format=torch.channels_last)


def is_used(layer, x):
    """Whether a layer's result is Winograd's: it differs in its last bits from the direct one."""
    with torch.no_grad(), winograd.direct_convolutions():
        direct = nn.functional.conv2d(x, layer.weight, padding=1)
    found = layer(x)
    assert torch.allclose(found.float(), direct, atol=0.1 if found.dtype == torch.bfloat16 else 1e-4)
    return not torch.equal(found, direct) and found.dtype == torch.float32


def test_a_layer_uses_them_if_the_process_does():
    layer, x = layer_and_map()
    assert not is_used(layer, x)
    winograd.use_winograd(True)
    assert is_used(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other, nn.Conv2d)
        assert torch.equal(other(x), layer(x))
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("why", ["few channels", "few tiles", "one row", "contiguous", "float64", "bf16"])
def test_elsewhere_convolutions_are_direct(monkeypatch, why):
    sizes = {"few channels": {"inputs": 8}, "few tiles": {"images": 1}, "one row": {"side": 1, "images": 64}}
    layer, x = layer_and_map(**sizes.get(why, {}))
    winograd.use_winograd(True)
    monkeypatch.setattr("fastconv.models.layers.winograd_conv2d", lambda *given: pytest.fail("not here"))
    if why == "contiguous":
        x = x.contiguous()
    if why == "float64":
        layer, x = layer.double(), x.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=why == "bf16"):
        layer(x)


def test_the_rule_is_one_of_shapes():
    assert tile_of(64, 64, 128, 32, 32) == 4
    assert tile_of(64, 512, 512, 2, 2) == 2
    assert [tile_of(images, 64, 64, 4, 4) > 0 for images in (47, 48)] == [False, True]
    assert not tile_of(64, 3, 64, 32, 32)
    assert [tile_of(64, 24, 32, 31, 31, dtype) for dtype in (torch.float32, torch.bfloat16)] == [4, 0]
    assert tile_of(64, 32, 32, 31, 31, torch.bfloat16) == 4


@pytest.mark.parametrize(("name", "settings"), NETWORKS[1:3])
def test_a_network_learns_the_same(name, settings):
    torch.manual_seed(0)
    model = build_model(name, 3, 10, **settings).to(memory_format=torch.channels_last)
    x, labels = torch.randn(48, 16, 16, 3).permute(0, 3, 1, 2), torch.randint(10, (48,))

    def learn():
        model.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    direct = learn()
    winograd.use_winograd(True)
    ours = learn()
    assert any(not torch.equal(*pair) for pair in zip(ours, direct, strict=True))
    for found, wanted in zip(ours, direct, strict=True):
        assert (found - wanted).norm() <= 1e-3 * wanted.norm()
    assert all(torch.equal(*pair) for pair in zip(ours, learn(), strict=True))


def test_layers_are_counted_as_they_are_computed(monkeypatch):
    taken = []
    for module, name in (("layers", "winograd_conv2d"), ("fused", "winograd_conv2d_pooled")):
        real = getattr(winograd, name)
        monkeypatch.setattr(
            f"fastconv.models.{module}.{name}", lambda *given, real=real: taken.append(1) or real(*given)
        )
    winograd.use_winograd(True)
    for name, settings in NETWORKS[1:]:
        taken.clear()
        counted = winograd_layers(build_model(name, 3, 10, **settings), (16, 16, 3), 24)
        build_model(name, 3, 10, **settings).to(memory_format=torch.channels_last)(
            torch.zeros(24, 16, 16, 3).permute(0, 3, 1, 2)
        )
        assert counted == len(taken) > 0


def test_an_export_has_a_convolution_that_others_know():
    layer, x = layer_and_map()
    winograd.use_winograd(True)
    exported = torch.export.export(layer, (x,))
    assert {str(node.target) for node in exported.graph.nodes if node.op == "call_function"} == {"aten.conv2d.default"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = str(torch.jit.trace(layer, x, check_trace=False).graph)
    assert "aten::_convolution" in traced
    assert "winograd" not in traced


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compiles_them(backend):
    layer, x = layer_and_map()
    winograd.use_winograd(True)
    expected = layer(x)
    found = torch.compile(layer, backend=backend, fullgraph=True)(x)
    assert torch.equal(found, expected)
    found.sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    layer(x).sum().backward()
    assert torch.equal(gradient, layer.weight.grad)


def test_the_operator_keeps_to_torchs_rules():
    x = torch.randn(2, 16, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(3, 16, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fastconv.winograd_conv2d.default, (x, weight, 1, 4), test_utils=checks)


@pytest.mark.slow
def test_a_first_call_does_not_import_torchs_compiler():
    """That takes 2 s."""
    code = """if True:
        import sys, torch
        from fastconv.kernels import winograd
        winograd.use_winograd(True)
        x = torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
        winograd.winograd_conv2d(x, torch.randn(16, 16, 3, 3), 1, 4).sum().backward()
        print("torch._dynamo" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_hooks_on_gradients_work():
    layer, x = layer_and_map()
    winograd.use_winograd(True)
    seen = []
    layer.register_full_backward_hook(lambda layer, of_x, of_out: seen.append((of_x[0].shape, of_out[0].shape)))
    layer(x.requires_grad_()).sum().backward()
    assert seen == [(x.shape, torch.Size([8, 24, 12, 12]))]


@pytest.mark.parametrize("operator", ["convolution", "pooled", "gelu", "norm and gelu"])
def test_a_second_derivative_is_refused_rather_than_zero(operator):
    x = torch.randn(4, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(16, 16, 3, 3, requires_grad=True), torch.zeros(16)
    out = {
        "convolution": lambda: winograd.winograd_conv2d(x, weight, 1, 4),
        "pooled": lambda: winograd.winograd_conv2d_pooled(x, weight, 1, 4)[0],
        "gelu": lambda: norm_gelu.gelu(x),
        "norm and gelu": lambda: norm_gelu.norm_gelu(x, bias, norm_gelu.statistics_of(x, 1e-5), True),
    }[operator]()
    for wanted in (x,) if "gelu" in operator else (x, weight):
        (gradient,) = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        assert torch.isfinite(gradient).all()
        with pytest.raises(RuntimeError, match=r"no second derivatives: set trainer\.winograd=off"):
            gradient.square().sum().backward()
