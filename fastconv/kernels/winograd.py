"""Winograd's convolutions of 3x3 filters in fp32 on a CPU: up to four times fewer multiplications than direct ones.

Lavin & Gray 2015, arXiv 1509.09308; `winograd.c` computes them. Results and gradients err by about 2e-6 relative,
direct ones by 3e-7, and do not depend on the number of threads up to four. Pixels of a map whose results are equal, as
those of an identity filter on an even background, may come out with a difference of that size, so that a max-pool takes
another one of them.

Whether layers use them is one choice of the process, as the number of threads is (`use_winograd`), and of each layer's
shape (`tile_of`). The operators have gradients and fake implementations, so that torch can compile them.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastconv.kernels.library import UnavailableError, load_library

SOURCE = Path(__file__).with_name("winograd.c")
# The table of where these convolutions are used, as measured by forward and backward passes against oneDNN's on an AMD
# EPYC (Zen 3), one thread; benchmarks/winograd.py measures it again.
# Instruction sets, by torch's names.
MEASURED = ("AVX2",)
# Fewest channels, of inputs and of outputs: with 8 they are 0.8 to 1.15 times as fast as direct ones, with 16 from 1.2
# to 1.5 times, with 64 and more 1.5 to 2.7 times.
LEAST_CHANNELS = 16
# Tiles of 4x4 outputs, on maps of more than 2x2; there tiles of 2x2 are 2.4 to 3 times as fast as direct ones, tiles of
# 4x4 1.0 to 1.4 times. A map of a single row or column is mostly border, which direct convolutions leave out.
TILE, SMALL_TILE, SMALL_SIDE = 4, 2, 2
# Fewest tiles of a batch: with fewer, it takes longer to transform the weights than it saves.
LEAST_TILES = 48
# Tiles that are computed at once, up to this many channels of inputs and outputs together: 24 fit into a core's cache.
# With more channels, more tiles are to share the reading of the weights.
BLOCK, WIDE_BLOCK, NARROW = 24, 48, 256
# Tiles whose products are added at once to the gradient of the weights, and threads beyond which they are to be more,
# as the threads then wait for each other.
GRADIENT_BLOCK, FEW_THREADS = 48, 4
# Largest relative error in the test after loading.
TOLERANCE = 1e-4
# Calls each function once with zeros, without torch, which would take seconds to import. Arrays begin at multiples of
# 64 bytes, as torch's do.
TRIAL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
def array(count):
    memory = (ctypes.c_float * (count + 16))()
    return memory, ctypes.c_void_p(-(-ctypes.addressof(memory) // 64) * 64)
for name, more in ("convolve", (0,)), ("convolve", (1,)), ("weight_gradient", ()):
    if not hasattr(library, f"fastconv_{name}_floats"):
        break
    for tile in 2, 4:
        problem = (ctypes.c_int * 9)(2, 6, 5, 24, 24, 1, tile, 4, 1)
        floats = getattr(library, f"fastconv_{name}_floats")
        floats.restype = ctypes.c_long
        arrays = [array(count) for count in (2**13, 2**13, 2**13, max(0, floats(problem)))]
        getattr(library, f"fastconv_{name}")(*(start for _, start in arrays), problem, *more)
"""


class _Problem(ctypes.Structure):
    """The structure `Problem` of winograd.c."""

    _fields_ = [(name, ctypes.c_int) for name in ("images", "height", "width", "inputs", "outputs", "padding",
                                                  "tile", "block", "threads")]  # fmt: skip


_is_on = False


def use_winograd(on: bool) -> None:
    """Set whether the convolutions of this process may be Winograd's. Raises ValueError where they are not possible."""
    global _is_on
    if on and (why := obstacle()):
        raise ValueError(why)
    _is_on = on


def uses_winograd() -> bool:
    """Whether the convolutions of this process may be Winograd's."""
    return _is_on


@contextlib.contextmanager
def direct_convolutions() -> Iterator[None]:
    """Within the block, all convolutions are direct."""
    global _is_on
    before, _is_on = _is_on, False
    try:
        yield
    finally:
        _is_on = before


@functools.cache
def obstacle() -> str | None:
    """Why Winograd's convolutions are not possible here; None if they are. The first call may build the library."""
    try:
        _library()
        error = _error()
    except UnavailableError as unavailable:
        return str(unavailable)
    except RuntimeError as failed:  # of torch, about sizes that cannot be
        return f"they fail here ({' '.join(str(failed).split())[:100]})"
    return None if error <= TOLERANCE else f"their results are wrong here, by {error:.1g}"


def is_measured() -> bool:
    """Whether they were measured to be faster than direct ones with this processor's instructions."""
    return torch.backends.cpu.get_cpu_capability() in MEASURED


def tile_of(images: int, inputs: int, outputs: int, height: int, width: int) -> int:
    """Side of the tiles with which Winograd's convolution is fastest, in pixels; 0 where the direct one is.

    Args:
        images: of a batch.
        inputs, outputs: channels.
        height, width: of the outputs' maps.
    """
    if min(inputs, outputs) < LEAST_CHANNELS or min(height, width) < 2:
        return 0
    tile = SMALL_TILE if max(height, width) <= SMALL_SIDE else TILE
    return tile if images * -(-height // tile) * -(-width // tile) >= LEAST_TILES else 0


def tile_for(x: Tensor, weight: Tensor, padding: int) -> int:
    """`tile_of` the convolution of a map by 3x3 filters, stride 1; 0 too if it is not in fp32 and channels last, on a
    CPU, or if it is recorded for an export, where other programs are to find a convolution that they know."""
    if not _is_on or x.ndim != 4:
        return 0
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return 0
    plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not plain or torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return 0
    images, inputs, height, width = x.shape
    return tile_of(images, inputs, weight.shape[0], height + 2 * padding - 2, width + 2 * padding - 2)


def winograd_conv2d(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    """Convolve maps float32 [N, C, H, W] with filters float32 [K, C, 3, 3]: [N, K, H + 2p - 2, W + 2p - 2].

    Args:
        padding: p zeros around each map, 0 to 2.
        tile: side of the tiles, 2 or 4.
    """
    found: Tensor = torch.ops.fastconv.winograd_conv2d(x, weight, padding, tile)
    return found


def _output(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    return _convolve(x, weight, padding, tile, turned=False)


def _input_gradient(gradient: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    return _convolve(gradient, weight, 2 - padding, tile, turned=True)


def _weight_gradient(gradient: Tensor, x: Tensor, padding: int, tile: int) -> Tensor:
    x, gradient = _channels_last(x), _channels_last(gradient)
    threads = torch.get_num_threads()
    block = GRADIENT_BLOCK * -(-threads // FEW_THREADS)
    problem = _Problem(*_sizes(x), gradient.shape[1], padding, tile, block, threads)
    out = _empty(gradient.shape[1], x.shape[1], 3, 3)
    _run("weight_gradient", problem, x, gradient, out)
    return out


def _fake_output(x: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    return _like(x, x.shape[0], weight.shape[0], x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2)


def _fake_input_gradient(gradient: Tensor, weight: Tensor, padding: int, tile: int) -> Tensor:
    height, width = (side + 2 - 2 * padding for side in gradient.shape[2:])
    return _like(gradient, gradient.shape[0], weight.shape[1], height, width)


def _fake_weight_gradient(gradient: Tensor, x: Tensor, padding: int, tile: int) -> Tensor:
    return _like(x, gradient.shape[1], x.shape[1], 3, 3)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    x, weight, ctx.padding, ctx.tile = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, weight = ctx.saved_tensors
    of_x, of_weight = ctx.needs_input_grad[:2]
    of = torch.ops.fastconv
    return (
        of.winograd_conv2d_input(gradient, weight, ctx.padding, ctx.tile) if of_x else None,
        of.winograd_conv2d_weight(gradient, x, ctx.padding, ctx.tile) if of_weight else None,
        None,
        None,
    )


# torch.library.custom_op would import torch's compiler at the first call: 2 s and 160 MB.
_operators = torch.library.Library("fastconv", "FRAGMENT")
for _name, _arguments, _implementation, _fake in (
    ("winograd_conv2d", "Tensor x, Tensor weight", _output, _fake_output),
    ("winograd_conv2d_input", "Tensor gradient, Tensor weight", _input_gradient, _fake_input_gradient),
    ("winograd_conv2d_weight", "Tensor gradient, Tensor x", _weight_gradient, _fake_weight_gradient),
):
    _operators.define(f"{_name}({_arguments}, int padding, int tile) -> Tensor")
    _operators.impl(_name, _implementation, "CPU")
    torch.library.register_fake(f"fastconv::{_name}", _fake, lib=_operators)
torch.library.register_autograd("fastconv::winograd_conv2d", _backward, setup_context=_keep, lib=_operators)


def _convolve(x: Tensor, weight: Tensor, padding: int, tile: int, turned: bool) -> Tensor:
    x, weight = _channels_last(x), _channels_last(weight)
    images, height, width, inputs = _sizes(x)
    outputs, threads = weight.shape[1 if turned else 0], torch.get_num_threads()
    out = _empty(images, outputs, height + 2 * padding - 2, width + 2 * padding - 2)
    tiles = images * -(-out.shape[2] // tile) * -(-out.shape[3] // tile)
    block = min(BLOCK if inputs + outputs <= NARROW else WIDE_BLOCK, -(-tiles // threads))
    problem = _Problem(images, height, width, inputs, outputs, padding, tile, block, threads)
    _run("convolve", problem, x, weight, out, turned)
    return out


def _run(name: str, problem: _Problem, one: Tensor, other: Tensor, out: Tensor, *more: int) -> None:
    library, about = _library(), ctypes.byref(problem)
    scratch = torch.empty(getattr(library, f"fastconv_{name}_floats")(about), dtype=torch.float32)
    addresses = (tensor.data_ptr() for tensor in (one, other, out, scratch))
    getattr(library, f"fastconv_{name}")(*addresses, about, *more)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    images, channels, height, width = x.shape
    return images, height, width, channels


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return tensor.new_empty(shape).to(memory_format=torch.channels_last)


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library(SOURCE, TRIAL)
    try:
        for name, arguments in (("convolve", 1), ("weight_gradient", 0)):
            floats, function = getattr(library, f"fastconv_{name}_floats"), getattr(library, f"fastconv_{name}")
            floats.argtypes, floats.restype = [ctypes.c_void_p], ctypes.c_long
            function.argtypes, function.restype = [ctypes.c_void_p] * 5 + [ctypes.c_int] * arguments, None
    except AttributeError as error:
        raise UnavailableError("the library is not this one's") from error
    return library


def _error() -> float:
    """Largest relative error of small convolutions and their gradients, against torch's own."""
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for tile, inputs, outputs, height, width, padding in ((4, 17, 24, 7, 9, 1), (2, 16, 21, 6, 5, 0)):
        x = _channels_last(torch.randn(3, inputs, height, width, generator=draw))
        weight = _channels_last(torch.randn(outputs, inputs, 3, 3, generator=draw))
        expected = torch.conv2d(x, weight, padding=padding)
        gradient = _channels_last(torch.randn(expected.shape, generator=draw))
        around = (None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1)
        exact = torch.ops.aten.convolution_backward(gradient, x, weight, *around, [True, True, False])
        found = (
            _convolve(x, weight, padding, tile, turned=False),
            _convolve(gradient, weight, 2 - padding, tile, turned=True),
            _weight_gradient(gradient, x, padding, tile),
        )
        for one, other in zip(found, (expected, *exact[:2]), strict=True):
            error = float((one - other).norm() / other.norm())
            worst = max(worst, error if error == error else float("inf"))
    return worst
