"""Batch norm without a scale and GELU in one pass over a map, and GELU alone, on a CPU; `norm_gelu.c` computes them.

Maps are in fp32 or, with AVX-512's instructions for it, in bf16. Only the norm's input is kept for the gradient. Values
and gradients equal torch's, except for rounding: in fp32 GELU errs by 2e-7, torch's by 4e-7, and the statistics are
more exact than torch's. The number of threads changes no bit.

They are used where the process uses Winograd's convolutions (`fastconv.kernels.winograd`).
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastconv.kernels.library import UnavailableError, load_library
from fastconv.kernels.winograd import first_derivatives, is_usual_map
from fastconv.kernels.winograd_library import NO_BF16, channels_last
from fastconv.system.errors import message_of

SOURCE = Path(__file__).with_name("norm_gelu.c")
# Forward and backward passes take 0.4 to 0.5 times as long as torch's with 16 to 256 channels on maps of 15x15 and 7x7
# (AMD EPYC, Zen 3, two threads), but up to 1.6 times where the channels do not fill vectors of this many.
VECTOR = 8
# Largest relative error in the test after loading.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
# Calls each function once with ones, without torch, as that of winograd.py does.
TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
class Maps(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_long)] + [(name, ctypes.c_int) for name in "channels training threads bf16".split()]
def array():
    return (ctypes.c_float * 4096)(*[1.0] * 4096)
for bf16 in {0, library.fastconv_has_bf16()}:
    maps = ctypes.byref(Maps(150, 21, 1, 1, bf16))
    library.fastconv_norm_statistics(array(), array(), array(), maps, ctypes.c_float(1e-5))
    library.fastconv_norm_gelu(array(), array(), array(), array(), maps)
    library.fastconv_norm_gelu_gradient(*(array() for _ in range(7)), maps)
    library.fastconv_gelu(array(), array(), ctypes.c_long(4001), 1, bf16)
    library.fastconv_gelu_gradient(array(), array(), array(), ctypes.c_long(4001), 1, bf16)
"""


class _Maps(ctypes.Structure):
    """The structure `Maps` of norm_gelu.c."""

    _fields_ = [("rows", ctypes.c_long)] + [
        (name, ctypes.c_int) for name in ("channels", "training", "threads", "bf16")
    ]


@functools.cache
def obstacle(dtype: torch.dtype = torch.float32) -> str | None:
    """Why maps float32 or bfloat16 cannot be computed here; None if they can. The first call may build the library."""
    try:
        if dtype == torch.bfloat16 and not _library().fastconv_has_bf16():
            return NO_BF16
        with torch.autocast("cpu", enabled=False):
            error = _error(dtype)
    except UnavailableError as unavailable:
        return str(unavailable)
    except RuntimeError as failed:
        return f"they fail here ({message_of(failed, 100)})"
    return None if error <= TOLERANCE[dtype] else f"their results are wrong here, by {error:.1g}"


def suits(x: Tensor) -> bool:
    """Whether maps [N, C, H, W] are computed here: in fp32, or under autocast in bf16, and channels last, on a CPU, not
    recorded for an export or a compiler, which fuses them itself."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return is_usual_map(x) and x.numel() > 0 and obstacle(x.dtype) is None


def suits_norm(x: Tensor) -> bool:
    """`suits`, with a norm before the GELU: of more than one pixel, as torch demands."""
    return suits(x) and x.shape[1] % VECTOR == 0 and x.numel() > x.shape[1]


def gelu(x: Tensor) -> Tensor:
    """GELU of float32 or bfloat16 [N, C, H, W]: x times the normal distribution function of x."""
    found: Tensor = torch.ops.fastconv.gelu(x)
    return found


def statistics_of(x: Tensor, eps: float) -> Tensor:
    """Statistics of float32 or bfloat16 [N, C, H, W] for `norm_gelu`, float32 [4, C], without a gradient: the mean, the
    factor 1 / sqrt(var + eps), a correction of the mean's rounding, and the unbiased variance."""
    found: Tensor = torch.ops.fastconv.norm_statistics(x.detach(), eps)
    return found


def given_statistics(mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Statistics for `norm_gelu` from running ones, float32 [C] each."""
    return torch.stack([mean, (variance + eps).rsqrt(), torch.zeros_like(mean), variance])


def norm_gelu(x: Tensor, bias: Tensor, statistics: Tensor, training: bool) -> Tensor:
    """GELU of the norm of maps float32 or bfloat16 [N, C, H, W] plus a bias float32 [C].

    Args:
        statistics: [4, C], of `statistics_of` or `given_statistics`.
        training: whether the statistics are those of x, so that the gradient of x is also one through them.
    """
    found: Tensor = torch.ops.fastconv.norm_gelu(x, bias, statistics, training)
    return found


def _statistics(x: Tensor, eps: float) -> Tensor:
    x, maps = _maps(x)
    out = torch.empty(4, x.shape[1])
    _run("norm_statistics", (x, out, _scratch(maps)), maps, eps)
    return out


def _norm_gelu(x: Tensor, bias: Tensor, statistics: Tensor, training: bool) -> Tensor:
    x, maps = _maps(x)
    out = torch.empty_like(x)
    _run("norm_gelu", (x, bias.contiguous(), statistics.contiguous(), out), maps)
    return out


def _norm_gelu_gradient(
    gradient: Tensor, x: Tensor, bias: Tensor, statistics: Tensor, training: bool
) -> tuple[Tensor, Tensor]:
    x, maps = _maps(x, training)
    arrays = (channels_last(gradient), x, bias.contiguous(), statistics.contiguous())
    of_x, of_bias = torch.empty_like(x), torch.empty(x.shape[1])
    _run("norm_gelu_gradient", (*arrays, of_x, of_bias, _scratch(maps)), maps)
    return of_x, of_bias


def _gelu(x: Tensor) -> Tensor:
    x = channels_last(x)
    out = torch.empty_like(x)
    _run("gelu", (x, out), x.numel(), torch.get_num_threads(), x.dtype == torch.bfloat16)
    return out


def _gelu_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    x, gradient = channels_last(x), channels_last(gradient)
    out = torch.empty_like(x)
    _run("gelu_gradient", (gradient, x, out), x.numel(), torch.get_num_threads(), x.dtype == torch.bfloat16)
    return out


def _like(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _keep_norm(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    *kept, ctx.training = inputs
    ctx.save_for_backward(*kept)


def _norm_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.fastconv.norm_gelu_gradient(gradient, *ctx.saved_tensors, ctx.training)
    return *first_derivatives(found, gradient, *ctx.saved_tensors), None, None


def _keep_x(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gelu_backward(ctx: Any, gradient: Tensor) -> Tensor | None:
    found: Tensor = torch.ops.fastconv.gelu_gradient(gradient, *ctx.saved_tensors)
    return first_derivatives((found,), gradient, *ctx.saved_tensors)[0]


_operators = torch.library.Library("fastconv", "FRAGMENT")
for _name, _signature, _implementation, _fake in (
    ("norm_statistics", "Tensor x, float eps) -> Tensor", _statistics, lambda x, eps: torch.empty(4, x.shape[1])),
    ("norm_gelu", "Tensor x, Tensor bias, Tensor statistics, bool training) -> Tensor", _norm_gelu, _like),
    (
        "norm_gelu_gradient",
        "Tensor gradient, Tensor x, Tensor bias, Tensor statistics, bool training) -> (Tensor, Tensor)",
        _norm_gelu_gradient,
        lambda gradient, x, bias, *more: (_like(x), torch.empty_like(bias)),
    ),
    ("gelu", "Tensor x) -> Tensor", _gelu, _like),
    ("gelu_gradient", "Tensor gradient, Tensor x) -> Tensor", _gelu_gradient, _like),
):
    _operators.define(f"{_name}({_signature}")
    _operators.impl(_name, _implementation, "CPU")
    torch.library.register_fake(f"fastconv::{_name}", _fake, lib=_operators)
torch.library.register_autograd("fastconv::norm_gelu", _norm_backward, setup_context=_keep_norm, lib=_operators)
torch.library.register_autograd("fastconv::gelu", _gelu_backward, setup_context=_keep_x, lib=_operators)


def _maps(x: Tensor, training: bool = False) -> tuple[Tensor, _Maps]:
    images, channels, height, width = x.shape
    about = (images * height * width, channels, training, torch.get_num_threads(), x.dtype == torch.bfloat16)
    return channels_last(x), _Maps(*about)


def _scratch(maps: _Maps) -> Tensor:
    return torch.empty(_library().fastconv_norm_floats(maps), dtype=torch.float32)


def _run(name: str, arrays: tuple[Tensor, ...], *more: Any) -> None:
    if any(array.dtype == torch.bfloat16 for array in arrays) and not _library().fastconv_has_bf16():
        raise ValueError(NO_BF16)
    getattr(_library(), f"fastconv_{name}")(*(array.data_ptr() for array in arrays), *more)


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library(SOURCE, TRIAL)
    array, maps = ctypes.c_void_p, ctypes.POINTER(_Maps)
    try:
        library.fastconv_norm_floats.argtypes, library.fastconv_norm_floats.restype = [maps], ctypes.c_long
        for name, arguments in (
            ("norm_statistics", [array] * 3 + [maps, ctypes.c_float]),
            ("norm_gelu", [array] * 4 + [maps]),
            ("norm_gelu_gradient", [array] * 7 + [maps]),
            ("gelu", [array] * 2 + [ctypes.c_long, ctypes.c_int, ctypes.c_int]),
            ("gelu_gradient", [array] * 3 + [ctypes.c_long, ctypes.c_int, ctypes.c_int]),
        ):
            function = getattr(library, f"fastconv_{name}")
            function.argtypes, function.restype = arguments, None
    except AttributeError as error:
        raise UnavailableError("the library is not this one's") from error
    return library


def _error(dtype: torch.dtype) -> float:
    """Largest relative error of a small norm and GELU of maps of a type, and their gradients, against torch in fp32."""
    draw = torch.Generator().manual_seed(0)
    x, gradient = (channels_last(torch.randn(3, 21, 9, 7, generator=draw)).to(dtype).float() for _ in range(2))
    bias, one = torch.randn(21, generator=draw), torch.ones(21)
    normed, mean, scale = torch.native_batch_norm(x, one, bias, None, None, True, 0.0, 1e-5)
    sloped, exact = torch.ops.aten.gelu_backward(gradient, normed), torch.nn.functional.gelu(normed)
    expected = torch.ops.aten.native_batch_norm_backward(
        sloped, x, one, None, None, mean, scale, True, 1e-5, [True, False, True]
    )
    x, gradient, normed = (each.to(dtype) for each in (x, gradient, normed))
    statistics = _statistics(x, 1e-5)
    found = (
        _norm_gelu(x, bias, statistics, True),
        *_norm_gelu_gradient(gradient, x, bias, statistics, True),
        _gelu(normed),
        _gelu_gradient(gradient, normed),
    )
    worst = 0.0
    for mine, other in zip(found, (exact, expected[0], expected[2], exact, sloped), strict=True):
        error = float((mine - other).norm() / other.norm())
        worst = max(worst, error if error == error else float("inf"))
    return worst
