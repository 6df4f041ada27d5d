"""The functions of `winograd.c`, with tensors in place of addresses."""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from fastconv.kernels.library import UnavailableError, load_library

SOURCE = Path(__file__).with_name("winograd.c")
# Tiles that are computed at once, up to this many channels of inputs and outputs together: 24 fit into a core's cache.
# With more channels, more tiles are to share the reading of the weights.
BLOCK, WIDE_BLOCK, NARROW = 24, 48, 256
# Tiles whose products are added at once to the gradient of the weights, and threads beyond which they are to be more,
# as the threads then wait for each other.
GRADIENT_BLOCK, FEW_THREADS = {torch.float32: 48, torch.bfloat16: 96}, 4
# Which map of a convolution a max-pool of 2x2 pixels stands behind.
NEITHER, OUTPUTS, INPUTS = range(3)
NO_BF16 = "in bf16 they need a processor with AVX-512's instructions for it"
# Calls each function once with zeros, without torch, which would take seconds to import. Arrays begin at multiples of
# 64 bytes, as torch's do.
TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
def array(count):
    memory = (ctypes.c_float * (count + 16))()
    return memory, ctypes.c_void_p(-(-ctypes.addressof(memory) // 64) * 64)
for name, pooled, more in (
    ("convolve", 0, (0,)), ("convolve", 1, (0,)), ("convolve", 0, (1,)), ("convolve", 2, (1,)),
    ("weight_gradient", 0, ()), ("weight_gradient", 1, ()),
):
    if not hasattr(library, f"fastconv_{name}_floats"):
        break
    for tile, bf16 in (2, 0), (4, 0), (2, library.fastconv_has_bf16()), (4, library.fastconv_has_bf16()):
        problem = (ctypes.c_int * 11)(2, 6, 5, 24, 24, 1, tile, 4, 1, pooled, bf16)
        floats = getattr(library, f"fastconv_{name}_floats")
        floats.restype = ctypes.c_long
        arrays = [array(count) for count in (2**13, 2**13, 2**13, 2**13, max(0, floats(problem)))]
        getattr(library, f"fastconv_{name}")(*(start for _, start in arrays), problem, *more)
"""


class Problem(ctypes.Structure):
    """The structure `Problem` of winograd.c."""

    _fields_ = [(name, ctypes.c_int) for name in ("images", "height", "width", "inputs", "outputs", "padding",
                                                  "tile", "block", "threads", "pooled", "bf16")]  # fmt: skip


@functools.cache
def load() -> ctypes.CDLL:
    """The library, which the first call may build. Raises UnavailableError where that is not possible."""
    library = load_library(SOURCE, TRIAL)
    try:
        for name, arguments in (("convolve", 1), ("weight_gradient", 0)):
            floats, function = getattr(library, f"fastconv_{name}_floats"), getattr(library, f"fastconv_{name}")
            floats.argtypes, floats.restype = [ctypes.c_void_p], ctypes.c_long
            function.argtypes, function.restype = [ctypes.c_void_p] * 6 + [ctypes.c_int] * arguments, None
        library.fastconv_has_bf16.restype = ctypes.c_int
    except AttributeError as error:
        raise UnavailableError("the library is not this one's") from error
    return library


def output(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    """Convolve [N, C, H, W] with [K, C, 3, 3]: [N, K, H + 2p - 2, W + 2p - 2]."""
    images, inputs, height, width = x.shape
    problem = Problem(images, height, width, inputs, weight.shape[0], padding, tile)
    out = _empty(x.dtype, images, weight.shape[0], height + 2 * padding - 2, width + 2 * padding - 2)
    return _convolve(problem, x, weight, out, None, turned=False)


def pooled_output(x: Tensor, weight: Tensor, padding: int, tile: int) -> tuple[Tensor, Tensor]:
    """The maxima [N, K, H // 2, W // 2] of 2x2 pixels of a convolution [N, K, H, W], and int32, for each tile, which of
    the four pixels each of its maxima is, in 2 bits each."""
    images, inputs, height, width = x.shape
    problem = Problem(images, height, width, inputs, weight.shape[0], padding, tile, 0, 0, OUTPUTS)
    out, index = (
        torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        for shape, dtype in zip(pooled_shapes(x, weight, padding, tile), (x.dtype, torch.int32), strict=True)
    )
    return _convolve(problem, x, weight, out, index, turned=False), index


def pooled_shapes(x: Tensor, weight: Tensor, padding: int, tile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the results of `pooled_output`. Raises ValueError if there are none."""
    sides = [(side + 2 * padding - 2) // 2 for side in x.shape[2:]]
    if min(sides) < 1:
        raise ValueError("a map has fewer than 2x2 pixels to pool")
    tiles = (-(-2 * side // tile) for side in sides)
    return (x.shape[0], weight.shape[0], *sides), (x.shape[0], weight.shape[0], *tiles)


def input_gradient(gradient: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    """Gradient [N, C, H, W] of a convolution's input from that of its output."""
    images, outputs, height, width = gradient.shape
    problem = Problem(images, height, width, outputs, weight.shape[1], 2 - padding, tile)
    out = _empty(gradient.dtype, images, weight.shape[1], height + 2 - 2 * padding, width + 2 - 2 * padding)
    return _convolve(problem, gradient, weight, out, None, turned=True)


def pooled_input_gradient(
    gradient: Tensor, index: Tensor, weight: Tensor, height: int, width: int, padding: int, tile: int
) -> Tensor:
    """The same [N, C, height, width] from the gradient of the maxima."""
    images, outputs = gradient.shape[:2]
    before = height + 2 * padding - 2, width + 2 * padding - 2
    problem = Problem(images, *before, outputs, weight.shape[1], 2 - padding, tile, 0, 0, INPUTS)
    out = _empty(gradient.dtype, images, weight.shape[1], height, width)
    return _convolve(problem, gradient, weight, out, channels_last(index), turned=True)


def weight_gradient(gradient: Tensor, x: Tensor, padding: int, tile: int, index: Tensor | None = None) -> Tensor:
    """Gradient [K, C, 3, 3] of the filters from that of the output; with `index`, from that of the output's maxima."""
    x, gradient = channels_last(x), channels_last(gradient)
    index = None if index is None else channels_last(index)
    images, inputs, height, width = x.shape
    outputs, threads = gradient.shape[1], torch.get_num_threads()
    block, pooled = GRADIENT_BLOCK[x.dtype] * -(-threads // FEW_THREADS), NEITHER if index is None else OUTPUTS
    bf16 = x.dtype == torch.bfloat16
    problem = Problem(images, height, width, inputs, outputs, padding, tile, block, threads, pooled, bf16)
    out = _empty(torch.float32, outputs, inputs, 3, 3)
    _run("weight_gradient", problem, x, gradient, out, index)
    return out


def _convolve(problem: Problem, x: Tensor, weight: Tensor, out: Tensor, index: Tensor | None, turned: bool) -> Tensor:
    problem.threads, problem.bf16 = torch.get_num_threads(), x.dtype == torch.bfloat16
    sides = (side + 2 * problem.padding - 2 for side in (problem.height, problem.width))
    tiles = problem.images
    for side in sides:
        tiles *= -(-side // problem.tile)
    most = BLOCK if problem.inputs + problem.outputs <= NARROW else WIDE_BLOCK
    problem.block = min(most, -(-tiles // problem.threads))
    _run("convolve", problem, channels_last(x), channels_last(weight), out, index, turned)
    return out


def _run(
    name: str, problem: Problem, one: Tensor, other: Tensor, out: Tensor, index: Tensor | None, *more: int
) -> None:
    library, about = load(), ctypes.byref(problem)
    if problem.bf16 and not library.fastconv_has_bf16():
        raise ValueError(NO_BF16)
    scratch = torch.empty(getattr(library, f"fastconv_{name}_floats")(about), dtype=torch.float32)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in (one, other, out, index, scratch))
    getattr(library, f"fastconv_{name}")(*addresses, about, *more)


def channels_last(tensor: Tensor) -> Tensor:
    """The tensor [N, C, H, W] with its channels next to each other in memory."""
    return tensor.contiguous(memory_format=torch.channels_last)


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
