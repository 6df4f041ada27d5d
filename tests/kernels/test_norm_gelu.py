"""Batch norm and GELU in one pass against float64."""

import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from fastconv.kernels import library, norm_gelu
from fastconv.kernels.norm_gelu import gelu, given_statistics, statistics_of

LIMIT = 2e-6  # of relative errors
EPS = 1e-12


@pytest.fixture(autouse=True)
def possible():
    if norm_gelu.obstacle():
        pytest.skip("there is no library here")


def maps(*shape, mean=0.0, std=1.0):
    return (torch.randn(shape) * std + mean).to(memory_format=torch.channels_last)


def ours(x, bias, norm, eps=EPS):
    statistics = (
        statistics_of(x, eps) if norm.training else given_statistics(norm.running_mean, norm.running_var, norm.eps)
    )
    return norm_gelu.norm_gelu(x, bias, statistics, norm.training), statistics


def errors(x, training=True, threads=1):
    """Relative errors of the result and of the gradients of x and of the bias, against float64."""
    channels = x.shape[1]
    bias, gradient = torch.randn(channels), torch.randn(x.shape) + 1  # the bias's gradient is not near 0
    norm = nn.BatchNorm2d(channels, EPS).train(training)
    if not training:
        norm.running_mean.copy_(torch.randn(channels))
        norm.running_var.copy_(torch.rand(channels) + 0.1)
    wide = x.double().requires_grad_(), bias.double().requires_grad_()
    statistics = norm.running_mean.double(), norm.running_var.double()
    one = torch.ones(channels, dtype=torch.float64)
    exact = nn.functional.gelu(nn.functional.batch_norm(wide[0], *statistics, one, wide[1], training, 1.0, EPS))
    exact.backward(gradient.double())
    given = x.requires_grad_(), bias.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, used = ours(*given, norm)
        found.backward(gradient)
    finally:
        torch.set_num_threads(before)
    pairs = [(found.detach(), exact.detach())]
    pairs += [(one.grad, other.grad) for one, other in zip(given, wide, strict=True)]
    if training:
        pairs += [(used[3], statistics[1])]
        assert (used[0] - statistics[0]).abs().max() <= 1e-6 * x.detach().abs().max()
    return [float((one.double() - other).norm() / other.norm()) for one, other in pairs]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 2), (1, 3, 5, 7), (3, 8, 16, 9), (2, 17, 8, 8), (130, 24, 1, 1), (300, 6, 3, 4), (5, 600, 6, 5)]
)
def test_errors_are_those_of_fp32(shape, training):
    torch.manual_seed(0)
    # Two values are normed to 1 and -1 whatever they are: the gradient is 0.
    found = errors(maps(*shape), training)
    assert max(found[:1] + found[2:] if shape == (2, 1, 1, 2) else found) < LIMIT


@pytest.mark.slow
def test_errors_of_random_shapes_are_those_of_fp32():
    draw = random.Random(0)
    torch.manual_seed(0)
    for _ in range(200):
        shape = draw.choice((2, 5, 17, 64)), round(600 ** draw.random()), draw.randint(2, 16), draw.randint(1, 16)
        assert max(errors(maps(*shape), draw.random() < 0.7, draw.randint(1, 3))) < LIMIT, shape


def test_a_large_mean_costs_no_digits():
    """torch's own errs by 1e-3 here."""
    torch.manual_seed(0)
    assert max(errors(maps(40, 16, 9, 9, mean=100, std=0.1))) < 1e-5


def test_an_outlier_costs_no_digits():
    torch.manual_seed(0)
    x = maps(40, 16, 9, 9)
    x[0, :, 0, 0] = 1e4
    assert max(errors(x)) < 1e-4


def test_a_constant_channel_becomes_the_bias():
    x = maps(4, 8, 5, 5)
    x[:, 3] = 0.3
    x.requires_grad_()
    bias = torch.linspace(-1, 1, 8)
    norm = nn.BatchNorm2d(8, EPS)
    found, statistics = ours(x, bias, norm)
    assert torch.allclose(found[:, 3], nn.functional.gelu(bias[3]).expand(4, 5, 5), atol=1e-6)
    assert statistics[3, 3] == 0
    found.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value):
    x = maps(4, 16, 5, 5)
    x[1, 3, 2, 2] = value
    expected = nn.functional.gelu(nn.functional.batch_norm(x, None, None, None, torch.ones(16), True, 0.1, EPS))
    found, statistics = ours(x, torch.ones(16), nn.BatchNorm2d(16, EPS))
    assert torch.equal(found.isnan(), expected.isnan())
    assert not statistics[3, 3].isfinite()
    assert torch.allclose(gelu(x), nn.functional.gelu(x), atol=1e-6, equal_nan=True)


def test_gelu_and_its_gradient():
    x = torch.linspace(-12, 12, 240006).view(2, 3, 1, 40001).requires_grad_()
    wide = x.detach().double().requires_grad_()
    nn.functional.gelu(wide).sum().backward()
    gelu(x).sum().backward()
    assert (gelu(x) - nn.functional.gelu(wide)).abs().max() < 5e-7
    assert (x.grad - wide.grad).abs().max() < 3e-7


def test_results_are_equal_bit_by_bit_whatever_the_threads():
    torch.manual_seed(0)
    x, bias = maps(30, 20, 9, 7).requires_grad_(), torch.randn(20, requires_grad=True)
    found = []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            out, statistics = ours(x, bias, nn.BatchNorm2d(20, EPS))
            out = gelu(out)
            found.append((out, statistics, *torch.autograd.grad(out.square().sum(), (x, bias))))
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_the_operators_keep_to_torchs_rules():
    x, bias = maps(3, 9, 4, 5).requires_grad_(), torch.randn(9, requires_grad=True)
    statistics = statistics_of(x, EPS)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    of = torch.ops.fastconv
    torch.library.opcheck(of.norm_gelu.default, (x, bias, statistics, True), test_utils=checks)
    torch.library.opcheck(of.gelu.default, (x,), test_utils=checks)
    torch.library.opcheck(of.norm_statistics.default, (x.detach(), EPS), test_utils=checks[::2])
    gradient = torch.randn_like(x)
    given = (gradient, x.detach(), bias.detach(), statistics, True)
    torch.library.opcheck(of.norm_gelu_gradient.default, given, test_utils=checks[::2])
    torch.library.opcheck(of.gelu_gradient.default, given[:2], test_utils=checks[::2])


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_sanitizers_find_nothing(tmp_path, lanes):
    """With vectors of each length, on memory without a byte to spare, against plain loops in double."""
    program = tmp_path / "sanitized"
    options = ("-std=gnu11", "-O1", "-g", "-fopenmp", f"-DLANES={lanes}", "-Wno-psabi", "-march=native")
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    files = (f"-I{norm_gelu.SOURCE.parent}", str(Path(__file__).with_name("sanitized_norm_gelu.c")))
    command = [*library.find_compiler(), *checks, *files, *options, "-o", program, "-lm"]
    built = subprocess.run(command, capture_output=True)
    if b"sanitize" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr.decode()
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # three threads may share a core
    run = subprocess.run([program, "200"], capture_output=True, text=True, timeout=3600, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "200 shapes\n"
