"""Whether Winograd's convolutions are faster than direct ones on this processor."""

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fastconv.kernels import winograd
from fastconv.kernels.library import private_folder, processor_features
from fastconv.system.errors import InputError
from fastconv.system.files import read_file, write_atomically

# Instruction sets, by torch's names, with which they were measured to be faster (benchmarks/winograd.py). In bf16,
# direct convolutions with AMX are several times as fast as with AVX-512.
MEASURED = {torch.float32: ("AVX2",), torch.bfloat16: ("AVX512",)}
# The layer that decides for other processors: images, channels of inputs and of outputs, and side of the maps. Of the
# layers of the networks here, its speed-up is a middle one.
IMAGES, CHANNELS, SIDE = 16, 64, 15
# Passes of both kinds, by turns, whose fastest ones are compared: a few tenths of a second.
PASSES = 15
# They must take at most this share of the time of direct ones.
WORTH = 0.9


def is_measured(dtype: torch.dtype) -> bool:
    """Whether they were measured to be faster than direct ones with this processor's instructions."""
    if dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
        return False
    return torch.backends.cpu.get_cpu_capability() in MEASURED[dtype]


@functools.cache
def is_faster() -> bool:
    """Whether they are faster in fp32, by a test of one layer. The user's cache keeps its result for all processes, so
    that a run which goes on computes as it began."""
    with contextlib.suppress(OSError, InputError):
        if folder := private_folder():
            about = repr([processor_features(), torch.__version__])
            path = folder / f"winograd-is-faster-{hashlib.sha256(about.encode()).hexdigest()[:32]}"
            with contextlib.suppress(FileNotFoundError):
                return read_file(path, 1) == b"1"
            found = measure()
            write_atomically(path, b"1" if found else b"0")
            return found
    return measure()


def measure() -> bool:
    """Compare the fastest forward and backward passes of one layer in fp32. The random state stays as it is."""
    draw = torch.Generator().manual_seed(0)
    shape = (IMAGES, CHANNELS, SIDE, SIDE)
    x, gradient = (torch.randn(shape, generator=draw).to(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_()
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=draw).requires_grad_()
    works: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.conv2d(x, weight, padding=1),
        lambda: winograd.winograd_conv2d(x, weight, 1, winograd.TILE),
    )
    fastest = [float("inf")] * 2
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        for number in range(PASSES + 1):
            for kind, work in enumerate(works):  # by turns, so that a busy machine slows both down
                started = time.perf_counter()
                torch.autograd.grad(work(), (x, weight), gradient)
                seconds = time.perf_counter() - started
                if number:  # the first pass of each is slower
                    fastest[kind] = min(fastest[kind], seconds)
    direct, ours = fastest
    return ours <= WORTH * direct
