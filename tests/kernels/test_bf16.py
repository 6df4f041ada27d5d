"""Winograd's convolutions, norms and GELU in bf16 against float64, beside torch's in bf16, and where they are used."""

from types import SimpleNamespace

import pytest
import torch
from harness import only_run
from torch import nn

from fastconv.kernels import norm_gelu, winograd
from fastconv.kernels.winograd import winograd_conv2d, winograd_conv2d_pooled
from fastconv.models import build_model
from fastconv.models.layers import Convolution
from fastconv.runs.results import Results

# Largest relative errors by tile: bf16 has 8 bits, 1/256 = 0.004, of which tiles of 4x4 make three times as much.
LIMITS = {2: 0.006, 4: 0.018}
SHAPES = [  # images, inputs, outputs, height, width, padding
    (2, 8, 16, 4, 4, 1),
    (3, 17, 33, 7, 5, 1),
    (5, 24, 6, 9, 2, 1),
    (2, 31, 40, 6, 13, 0),
    (300, 2, 7, 3, 4, 1),
    (2, 260, 100, 5, 5, 1),
    (1, 16, 16, 2, 2, 2),
]


@pytest.fixture(autouse=True)
def possible():
    if why := winograd.obstacle(torch.bfloat16):
        pytest.skip(why)


def given(images, inputs, outputs, height, width, padding):
    """A map and the gradient of its convolution in bf16, and filters in fp32."""
    draw = torch.Generator().manual_seed(images * inputs + outputs)
    x, weight = (
        torch.randn(shape, generator=draw).to(memory_format=torch.channels_last)
        for shape in ((images, inputs, height, width), (outputs, inputs, 3, 3))
    )
    gradient = torch.randn(images, outputs, height + 2 * padding - 2, width + 2 * padding - 2, generator=draw)
    return x.bfloat16(), weight, gradient.bfloat16().to(memory_format=torch.channels_last)


def passes(compute, x, weight, gradient):
    """A result and the gradients of its input and filters."""
    ours = x.clone(memory_format=torch.preserve_format).requires_grad_(), weight.clone().requires_grad_()
    out = compute(*ours)
    return out.detach(), *torch.autograd.grad(out, ours, gradient.to(out.dtype))


def exact(padding):
    return lambda x, weight: nn.functional.conv2d(x.double(), weight.double(), padding=padding)


def error(found, wanted):
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_errors_are_those_of_bf16(shape, tile):
    x, weight, gradient = given(*shape)
    found = passes(lambda x, weight: winograd_conv2d(x, weight, shape[-1], tile), x, weight, gradient)
    assert [each.dtype for each in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    wide = x.double(), weight.double(), gradient.double()
    for one, other in zip(found, passes(exact(shape[-1]), *wide), strict=True):
        assert one.shape == other.shape
        assert error(one, other) < LIMITS[tile]


def chosen(whole, index, tile):
    """The pixel of each 2x2 of a map that an index says: 2 bits for each, those of a tile together, row by row."""
    rows, columns = (torch.arange(side // 2) for side in whole.shape[2:])
    half = tile // 2
    shifts = 2 * (rows[:, None] % half * half + columns % half)
    at = index[:, :, rows // half][:, :, :, columns // half] >> shifts & 3
    blocks = whole[:, :, : 2 * len(rows), : 2 * len(columns)].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    pixels = blocks.permute(0, 1, 2, 4, 3, 5).flatten(4)  # [N, K, rows, columns, 4]
    return pixels.gather(4, at.long()[..., None])[..., 0]


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape[3:5]) > 2])
def test_a_pool_takes_the_largest_and_its_gradients_go_there(shape, tile):
    padding = shape[-1]
    x, weight, _ = given(*shape)
    maxima, index = winograd_conv2d_pooled(x, weight, padding, tile)
    whole = winograd_conv2d(x, weight, padding, tile)
    assert torch.equal(maxima, nn.functional.max_pool2d(whole, 2))
    assert torch.equal(maxima, chosen(whole, index, tile))
    # With the index of fp32, which torch finds too: in bf16, other pixels may be the largest.
    index = winograd_conv2d_pooled(x.float(), weight, padding, tile)[1]
    wide = [each.double().requires_grad_() for each in (x, weight)]
    out = nn.functional.max_pool2d(exact(padding)(*wide), 2)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradient = gradient.to(memory_format=torch.channels_last)
    of_x, of_weight = torch.autograd.grad(out, wide, gradient.double())
    of, around = torch.ops.fastconv, (padding, tile)
    assert error(of.winograd_conv2d_pooled_input(gradient, index, weight, *x.shape[2:], *around), of_x) < LIMITS[tile]
    assert error(of.winograd_conv2d_pooled_weight(gradient, index, x, *around), of_weight) < LIMITS[tile]


def test_results_are_equal_bit_by_bit_whatever_the_threads():
    x, weight, gradient = given(60, 24, 40, 14, 12, 1)  # many blocks of tiles
    found = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            found.append(passes(lambda x, weight: winograd_conv2d(x, weight, 1, 4), x, weight, gradient))
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_what_is_no_number_stays_none():
    x, weight, _ = given(4, 16, 16, 8, 8, 1)
    x[2, 3, 4, 4] = float("nan")
    for found in (winograd_conv2d(x, weight, 1, 4), winograd_conv2d_pooled(x, weight, 1, 4)[0]):
        assert found[2].isnan().any()
        assert not found[[0, 1, 3]].isnan().any()


@pytest.mark.parametrize("why", ["", "evaluation", "no autocast", "contiguous", "fp32 map"])
def test_layers_use_them_under_autocast_while_they_train(monkeypatch, why):
    taken = []
    real = winograd_conv2d
    monkeypatch.setattr("fastconv.models.layers.winograd_conv2d", lambda *all: taken.append(all[0].dtype) or real(*all))
    winograd.use_winograd(True, torch.bfloat16)
    layer, (x, _, _) = Convolution(32, 40).to(memory_format=torch.channels_last), given(8, 32, 40, 12, 12, 1)
    layer.train(why != "evaluation")
    x = {"contiguous": x.contiguous(), "fp32 map": x.float()}.get(why, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=why != "no autocast"):
        out = layer(x) if why != "no autocast" else layer(x.float())
    assert taken == ([] if why else [torch.bfloat16])
    assert out.dtype == (torch.float32 if why == "no autocast" else torch.bfloat16)
    assert error(out, exact(1)(x, layer.weight)) < LIMITS[4]


@pytest.mark.parametrize(("name", "settings"), [("davidnet", {"width": 16}), ("airbench", {"widths": [16, 64, 64]})])
def test_a_network_learns_what_it_learns_in_fp32(name, settings):
    """`airbench` has fused pools, norms and GELU."""
    torch.manual_seed(0)
    model = build_model(name, 3, 10, **settings).to(memory_format=torch.channels_last)
    x, labels = torch.randn(48, 16, 16, 3).permute(0, 3, 1, 2), torch.randint(10, (48,))

    def gradients(bf16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]).double()

    wanted, direct = gradients(bf16=False), gradients(bf16=True)
    winograd.use_winograd(True, torch.bfloat16)
    ours = gradients(bf16=True)
    assert not torch.equal(ours, direct)
    assert error(ours, wanted) < min(0.5, 4 * error(direct, wanted))
    assert torch.equal(ours, gradients(bf16=True))


@pytest.mark.slow
def test_torch_compiles_them():
    winograd.use_winograd(True, torch.bfloat16)
    layer, (x, _, _) = Convolution(32, 40).to(memory_format=torch.channels_last), given(8, 32, 40, 12, 12, 1)
    found = []
    for compute in layer, torch.compile(layer, backend="aot_eager", fullgraph=True):
        with torch.autocast("cpu", torch.bfloat16):
            out = compute(x)
        found.append((out, *torch.autograd.grad(out.float().sum(), layer.weight)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    with torch.autocast("cpu", torch.bfloat16), winograd.direct_convolutions():
        assert not torch.equal(layer(x), found[0][0])


def test_maps_that_the_processor_cannot_compute_are_refused(monkeypatch):
    x, weight, _ = given(2, 16, 3, 5, 6, 1)
    for module, name in ((winograd.winograd_library, "load"), (norm_gelu, "_library")):
        monkeypatch.setattr(module, name, lambda: SimpleNamespace(fastconv_has_bf16=lambda: 0))
    with pytest.raises(ValueError, match="in bf16 they need a processor"):
        winograd_conv2d(x, weight, 1, 4)
    with pytest.raises(ValueError, match="in bf16 they need a processor"):
        norm_gelu.gelu(x)


def test_the_operators_keep_to_torchs_rules():
    x, weight, _ = given(2, 16, 3, 5, 6, 1)
    given_to = (x.requires_grad_(), weight.requires_grad_(), 1, 4)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    of = torch.ops.fastconv
    for operator in (of.winograd_conv2d, of.winograd_conv2d_pooled):
        torch.library.opcheck(operator.default, given_to, test_utils=checks)
    bias, statistics = torch.randn(16, requires_grad=True), norm_gelu.statistics_of(x, 1e-5)
    torch.library.opcheck(of.norm_gelu.default, (x, bias, statistics, True), test_utils=checks)
    torch.library.opcheck(of.norm_statistics.default, (x.detach(), 1e-5), test_utils=checks[::2])
    torch.library.opcheck(of.gelu.default, (x,), test_utils=checks)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (3, 8, 16, 9), (2, 17, 8, 8), (130, 24, 1, 1), (5, 600, 6, 5)])
def test_norm_and_gelu_err_as_bf16_does(shape, training):
    torch.manual_seed(0)
    x, gradient = (torch.randn(shape).to(memory_format=torch.channels_last).bfloat16() for _ in range(2))
    bias, mean, variance = torch.randn(shape[1]), torch.randn(shape[1]), torch.rand(shape[1]) + 0.1

    def exact(x, bias):
        one = torch.ones_like(bias)
        normed = nn.functional.batch_norm(x, mean.double(), variance.double(), one, bias, training, 1.0, 1e-5)
        return nn.functional.gelu(normed)

    wide = x.double().requires_grad_(), bias.double().requires_grad_()
    out = exact(*wide)
    wanted = out, *torch.autograd.grad(out, wide, gradient.double())
    statistics = norm_gelu.statistics_of(x, 1e-5) if training else norm_gelu.given_statistics(mean, variance, 1e-5)
    given_to = x.requires_grad_(), bias.requires_grad_()
    out = norm_gelu.norm_gelu(*given_to, statistics, training)
    found = out, *torch.autograd.grad(out, given_to, gradient)
    assert [each.dtype for each in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert max(error(one, other) for one, other in zip(found, wanted, strict=True)) < 0.006


def test_the_test_after_loading_may_come_under_autocast():
    for kernels in (winograd, norm_gelu):
        kernels.obstacle.cache_clear()
        with torch.autocast("cpu", torch.bfloat16):
            assert kernels.obstacle(torch.bfloat16) is None
            assert kernels.obstacle(torch.float32) is None


def test_gelu_errs_as_bf16_does():
    x = torch.linspace(-12, 12, 240006).view(2, 3, 1, 40001).bfloat16().requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact = nn.functional.gelu(wide)
    exact.sum().backward()
    found = norm_gelu.gelu(x)
    found.sum().backward()
    assert error(found, exact) < 0.003
    assert error(x.grad, wide.grad) < 0.003


def test_a_fused_network_is_as_precise_as_torchs():
    """Of batch norm, GELU, pool and convolution: the logits in evaluation, against fp32."""
    torch.manual_seed(0)
    model = build_model("airbench", 3, 10, widths=[16, 64, 64]).to(memory_format=torch.channels_last)
    x = torch.randn(48, 32, 32, 3).permute(0, 3, 1, 2)
    model(x)  # statistics for the norms
    model.eval()
    found = {}
    with torch.no_grad():
        wanted = model(x).double()
        for is_on in (False, True):
            winograd.use_winograd(is_on, torch.bfloat16)
            with torch.autocast("cpu", torch.bfloat16):
                found[is_on] = model(x)
    assert not torch.equal(found[True], found[False])
    assert error(found[True], wanted) < 1.2 * error(found[False], wanted)


def test_a_run_says_that_it_uses_them(command, tmp_path):
    ended = command(
        "train", "dataset=digits", "model.width=16", "batch_size=64", "micro_batch_size=64", "trainer=cpu",
        "trainer.precision=bf16", "trainer.winograd=on", "budget.seconds=null", "schedule.max_epochs=2",
        "stream=online",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "Winograd in 4 convolutions" in ended.out
    results = Results.read(only_run(tmp_path))
    assert results.winograd_layers == 4
    assert results.accuracy > 0.5
