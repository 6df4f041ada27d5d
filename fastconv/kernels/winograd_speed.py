"""Whether Winograd's convolutions are faster than direct ones on this processor."""

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastconv.kernels import winograd
from fastconv.kernels.library import private_folder, processor_features
from fastconv.system.errors import InputError
from fastconv.system.files import locked, read_file, write_atomically

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
    about = repr([processor_features(), torch.__version__])
    name = f"winograd-is-faster-{hashlib.sha256(about.encode()).hexdigest()[:32]}"
    found = None
    with contextlib.suppress(OSError, InputError):
        if folder := private_folder():
            found = _kept(folder / name)
            if found is None:
                with locked(folder, name):  # processes that begin together, such as ranks, compute alike
                    found = _kept(folder / name)
                    if found is None:
                        found = measure()
                        write_atomically(folder / name, b"1" if found else b"0")
    return measure() if found is None else found


def _kept(path: Path) -> bool | None:
    """The result in a file; None if it is missing or damaged."""
    with contextlib.suppress(OSError, InputError):
        return {b"1": True, b"0": False}.get(read_file(path, 1))
    return None


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
