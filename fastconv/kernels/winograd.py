"""Winograd's convolutions of 3x3 filters on a CPU: up to four times fewer multiplications than direct ones.

Lavin & Gray 2015, arXiv 1509.09308; `winograd.c` computes them, and a max-pool of 2x2 pixels with them. Results and
gradients err by about 2e-6 relative in fp32, direct ones by 3e-7; in bf16 by 0.012 with tiles of 4x4 and by 0.004 with
tiles of 2x2, direct ones by 0.003. They do not depend on the number of threads up to four. Pixels of a map whose
results are equal, as those of an identity filter on an even background, may come out with a difference of that size, so
that a max-pool takes another one of them.

Whether layers use them is one choice of the process, as the number of threads is (`use_winograd`), and of each layer's
shape (`tile_of`). The operators have gradients and fake implementations, so that torch can compile them.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastconv.kernels import winograd_library
from fastconv.kernels.library import UnavailableError
from fastconv.system.errors import message_of

# Which layers use these convolutions, as measured by forward and backward passes against oneDNN's on an AMD EPYC
# (Zen 3), one thread, in fp32, and on two of Zen 4 in bf16; benchmarks/winograd.py measures it again.
# Fewest channels, of inputs and of outputs: with 8 they are 0.8 to 1.15 times as fast as direct ones, with 16 from 1.2
# to 1.5 times, with 64 and more 1.5 to 2.7 times.
LEAST_CHANNELS = 16
# Fewest inputs times outputs. In bf16, with 16 * 16 to 24 * 32 they are 0.7 to 1.0 times as fast, with 32 * 32 and
# 16 * 64 1.2 times.
LEAST_PRODUCT = {torch.float32: 0, torch.bfloat16: 1024}
# Tiles of 4x4 outputs, on maps of more than 2x2; there tiles of 2x2 are 2.4 to 3 times as fast as direct ones, tiles of
# 4x4 1.0 to 1.4 times. A map of a single row or column is mostly border, which direct convolutions leave out.
TILE, SMALL_TILE, SMALL_SIDE = 4, 2, 2
# Fewest tiles of a batch: with fewer, it takes longer to transform the weights than it saves.
LEAST_TILES = 48
# Largest relative error in the test after loading.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
# Type of the maps whose convolutions may be Winograd's.
_dtype: torch.dtype | None = None


def use_winograd(on: bool, dtype: torch.dtype = torch.float32) -> None:
    """Set whether the convolutions of this process may be Winograd's, and of which maps, float32 or bfloat16.

    Raises ValueError where they are not possible.
    """
    global _dtype
    if on and (why := obstacle(dtype)):
        raise ValueError(why)
    _dtype = dtype if on else None


def uses_winograd() -> bool:
    """Whether the convolutions of this process may be Winograd's."""
    return _dtype is not None


@contextlib.contextmanager
def direct_convolutions() -> Iterator[None]:
    """Within the block, all convolutions are direct."""
    global _dtype
    before, _dtype = _dtype, None
    try:
        yield
    finally:
        _dtype = before


@functools.cache
def obstacle(dtype: torch.dtype = torch.float32) -> str | None:
    """Why Winograd's convolutions are not possible here; None if they are. The first call may build the library.

    Args:
        dtype: float32, or bfloat16, for which the processor needs AVX-512's instructions.
    """
    try:
        library = winograd_library.load()
        if dtype == torch.bfloat16 and not library.fastconv_has_bf16():
            return winograd_library.NO_BF16
        with torch.autocast("cpu", enabled=False):
            error = _error(dtype)
    except UnavailableError as unavailable:
        return str(unavailable)
    except RuntimeError as failed:  # of torch, about sizes that cannot be
        return f"they fail here ({message_of(failed, 100)})"
    return None if error <= TOLERANCE[dtype] else f"their results are wrong here, by {error:.1g}"


def tile_of(images: int, inputs: int, outputs: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> int:
    """Side of the tiles with which Winograd's convolution is fastest, in pixels; 0 where the direct one is.

    Args:
        images: of a batch.
        inputs, outputs: channels.
        height, width: of the outputs' maps.
        dtype: of the maps, float32 or bfloat16.
    """
    if min(inputs, outputs) < LEAST_CHANNELS or inputs * outputs < LEAST_PRODUCT[dtype] or min(height, width) < 2:
        return 0
    tile = SMALL_TILE if max(height, width) <= SMALL_SIDE else TILE
    return tile if images * -(-height // tile) * -(-width // tile) >= LEAST_TILES else 0


def is_usual_map(x: Tensor) -> bool:
    """Whether x is [N, C, H, W], channels last, on a CPU, and of the type of this process's Winograd convolutions: in
    fp32, or under autocast in bf16."""
    if x.ndim != 4 or x.device.type != "cpu" or x.dtype != _dtype:
        return False
    computed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return x.dtype == computed and x.is_contiguous(memory_format=torch.channels_last)


def tile_for(x: Tensor, weight: Tensor, padding: int, training: bool) -> int:
    """`tile_of` the convolution of a map by 3x3 filters, stride 1; 0 too if it is not channels last, on a CPU, or if it
    is recorded for an export, where other programs are to find a convolution that they know.

    Args:
        weight: in fp32. The map is too, or under autocast in bf16.
        training: whether the layer is in training. In bf16 only then, as scores are to be as precise as direct ones.
    """
    if not is_usual_map(x) or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 0
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return 0
    if x.dtype == torch.bfloat16 and not training:
        return 0
    images, inputs, height, width = x.shape
    return tile_of(images, inputs, weight.shape[0], height + 2 * padding - 2, width + 2 * padding - 2, x.dtype)


def winograd_conv2d(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    """Convolve maps float32 or bfloat16 [N, C, H, W] with filters float32 [K, C, 3, 3]: [N, K, H + 2p - 2, W + 2p - 2]
    of the maps' type.

    Args:
        padding: p zeros around each map, 0 to 2.
        tile: side of the tiles, 2 or 4.
    """
    found: Tensor = torch.ops.fastconv.winograd_conv2d(x, weight, padding, tile)
    return found


def winograd_conv2d_pooled(x: Tensor, weight: Tensor, padding: int, tile: int) -> tuple[Tensor, Tensor]:
    """The maximum of each 2x2 pixels of `winograd_conv2d`, as `torch.max_pool2d` takes it: of equal values the first,
    and NaN if there is one; a last odd row or column is dropped. Bit by bit what the two compute one after the other.

    Returns the maxima [N, K, (H + 2p - 2) // 2, (W + 2p - 2) // 2], of x's type, and int32 [N, K, rows of tiles,
    columns of tiles] which of the four pixels those of a tile are: this and x are all that the gradients need. In bf16
    the pixels are compared before they are rounded.
    """
    found: tuple[Tensor, Tensor] = torch.ops.fastconv.winograd_conv2d_pooled(x, weight, padding, tile)
    return found


def _fake_output(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    return _like(x, x.shape[0], weight.shape[0], x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2)


def _fake_input_gradient(gradient: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    height, width = (side + 2 - 2 * padding for side in gradient.shape[2:])
    return _like(gradient, gradient.shape[0], weight.shape[1], height, width)


def _fake_weight_gradient(gradient: Tensor, x: Tensor, padding: int, tile: int) -> Tensor:
    return _like(x, gradient.shape[1], x.shape[1], 3, 3).to(torch.float32)


def _fake_pooled(x: Tensor, weight: Tensor, padding: int, tile: int) -> tuple[Tensor, Tensor]:
    maxima, index = winograd_library.pooled_shapes(x, weight, padding, tile)
    return _like(x, *maxima), _like(x, *index).to(torch.int32)


def _fake_pooled_input(
    gradient: Tensor, index: Tensor, weight: Tensor, height: int, width: int, padding: int, tile: int
) -> Tensor:
    return _like(gradient, gradient.shape[0], weight.shape[1], height, width)


def _fake_pooled_weight(gradient: Tensor, index: Tensor, x: Tensor, padding: int, tile: int) -> Tensor:
    return _like(x, gradient.shape[1], x.shape[1], 3, 3).to(torch.float32)


def _pooled_weight(gradient: Tensor, index: Tensor, x: Tensor, padding: int, tile: int) -> Tensor:
    return winograd_library.weight_gradient(gradient, x, padding, tile, index)


class _FirstDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, *inputs: Tensor) -> Tensor:
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError("fastconv's kernels for CPUs have no second derivatives: set trainer.winograd=off for them")


def first_derivatives(found: tuple[Tensor | None, ...], *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of which a derivative by the inputs raises RuntimeError, where torch would take zeros for it."""
    if not torch.is_grad_enabled():
        return found
    return tuple(None if each is None else _FirstDerivative.apply(each, *inputs) for each in found)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    x, weight, ctx.padding, ctx.tile = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_x, of_weight = ctx.needs_input_grad[:2]
    of = torch.ops.fastconv
    found = (
        of.winograd_conv2d_input(gradient, weight, ctx.padding, ctx.tile) if of_x else None,
        of.winograd_conv2d_weight(gradient, x, ctx.padding, ctx.tile) if of_weight else None,
    )
    return *first_derivatives(found, gradient, x, weight), None, None


def _keep_pooled(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: tuple[Tensor, Tensor]) -> None:
    x, weight, ctx.padding, ctx.tile = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _pooled_backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, weight, index = ctx.saved_tensors
    of_x, of_weight = ctx.needs_input_grad[:2]
    of, around = torch.ops.fastconv, (ctx.padding, ctx.tile)
    found = (
        of.winograd_conv2d_pooled_input(gradient, index, weight, *x.shape[2:], *around) if of_x else None,
        of.winograd_conv2d_pooled_weight(gradient, index, x, *around) if of_weight else None,
    )
    return *first_derivatives(found, gradient, x, weight), None, None


# torch.library.custom_op would import torch's compiler at the first call: 2 s and 160 MB.
_operators = torch.library.Library("fastconv", "FRAGMENT")
for _name, _arguments, _results, _implementation, _fake in (
    ("", "Tensor x, Tensor weight", "Tensor", winograd_library.output, _fake_output),
    ("_input", "Tensor gradient, Tensor weight", "Tensor", winograd_library.input_gradient, _fake_input_gradient),
    ("_weight", "Tensor gradient, Tensor x", "Tensor", winograd_library.weight_gradient, _fake_weight_gradient),
    ("_pooled", "Tensor x, Tensor weight", "(Tensor, Tensor)", winograd_library.pooled_output, _fake_pooled),
    ("_pooled_input", "Tensor gradient, Tensor index, Tensor weight, int height, int width", "Tensor",
     winograd_library.pooled_input_gradient, _fake_pooled_input),
    ("_pooled_weight", "Tensor gradient, Tensor index, Tensor x", "Tensor", _pooled_weight, _fake_pooled_weight),
):  # fmt: skip
    _name = f"winograd_conv2d{_name}"
    _operators.define(f"{_name}({_arguments}, int padding, int tile) -> {_results}")
    _operators.impl(_name, _implementation, "CPU")
    torch.library.register_fake(f"fastconv::{_name}", _fake, lib=_operators)
for _name, _gradients, _kept in (
    ("winograd_conv2d", _backward, _keep),
    ("winograd_conv2d_pooled", _pooled_backward, _keep_pooled),
):
    torch.library.register_autograd(f"fastconv::{_name}", _gradients, setup_context=_kept, lib=_operators)


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return tensor.new_empty(shape).to(memory_format=torch.channels_last)


def _error(dtype: torch.dtype) -> float:
    """Largest relative error of small convolutions of maps of a type, with and without a max-pool, and their gradients,
    against torch in fp32."""
    draw, of, worst = torch.Generator().manual_seed(0), winograd_library, 0.0
    for tile, inputs, outputs, height, width, padding in ((4, 17, 24, 7, 9, 1), (2, 16, 21, 6, 5, 0)):
        x = torch.randn(3, inputs, height, width, generator=draw).to(dtype).float()
        weight = torch.randn(outputs, inputs, 3, 3, generator=draw)
        expected = torch.conv2d(x, weight, padding=padding)
        maxima, at = torch.nn.functional.max_pool2d(expected, 2, return_indices=True)
        gradient, of_maxima = (torch.randn(each.shape, generator=draw).to(dtype).float() for each in (expected, maxima))
        index = of.pooled_output(x, weight, padding, tile)[1]  # in bf16, other pixels may be the largest
        maps, of_maps, of_pooled = x.to(dtype), gradient.to(dtype), of_maxima.to(dtype)
        found = (
            of.output(maps, weight, padding, tile),
            of.pooled_output(maps, weight, padding, tile)[0],
            of.input_gradient(of_maps, weight, padding, tile),
            of.weight_gradient(of_maps, maps, padding, tile),
            of.pooled_input_gradient(of_pooled, index, weight, height, width, padding, tile),
            of.weight_gradient(of_pooled, maps, padding, tile, index),
        )
        spread = torch.nn.functional.max_unpool2d(of_maxima, at, [2, 2], output_size=list(expected.shape))
        around = (None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1)
        exact = [expected, maxima]
        for each in gradient, spread:
            exact += torch.ops.aten.convolution_backward(each, x, weight, *around, [True, True, False])[:2]
        for one, other in zip(found, exact, strict=True):
            error = float((one - other).norm() / other.norm())
            worst = max(worst, error if error == error else float("inf"))
    return worst
