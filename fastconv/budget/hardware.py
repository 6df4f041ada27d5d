"""The hardware that trains: device, precision, and an allocator that suits training on a CPU."""

import contextlib
import ctypes
import functools
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._triton import has_triton

from fastconv.budget.threads import choose_threads, default_threads
from fastconv.config.schema import Config, Trainer
from fastconv.kernels import norm_gelu, winograd, winograd_speed
from fastconv.system.control_groups import memory_left
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError
from fastconv.system.gpu import find_gpu, free_bytes, gpu_count, gpu_name
from fastconv.system.wording import counted

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
# To find the faster type, square matrices are multiplied: few and small ones, but several, as the first are slower.
PRODUCT_SIDE, PRODUCTS = 512, 8


@dataclass(frozen=True)
class Device:
    """The device of a run, and how it computes.

    Args:
        kind: `cpu`, `cuda` or `mps`, the type of a torch device.
        name: model name of the processor or GPU.
        precision: `bf16` or `fp32`.
        threads: CPU threads that compute.
        keep_memory: whether the C library keeps freed memory.
        compile: whether the training step is compiled.
        winograd: whether 3x3 convolutions may be Winograd's, where a layer's shape suits them.
    """

    kind: str
    name: str
    precision: str
    threads: int
    keep_memory: bool
    compile: bool
    winograd: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return dtype_of(self.precision)

    def autocast(self) -> torch.autocast:
        """A context in which forward passes compute in this precision."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=self.precision == "bf16")

    def free_memory(self) -> int | None:
        """Bytes of memory that are free, on a GPU if it is one; None if the system does not say."""
        if self.kind != "cpu":
            return free_bytes(self.kind)
        free = memory_left()
        with contextlib.suppress(OSError):  # elsewhere than Linux
            if available := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8")):
                machine = 1024 * int(available[1])
                return machine if free is None else min(machine, free)
        return free


def prepare(trainer: Trainer, threads: int | None = None) -> Device:
    """Choose the device and set it up as configured.

    Args:
        threads: number of CPU threads where the config leaves it open; None for torch's choice.

    Raises InputError for GPUs, a compiler or Winograd's convolutions that are asked for and not there.
    """
    gpu = find_gpu()
    if trainer.accelerator == "gpu" and not gpu:
        raise InputError(
            "trainer.accelerator=gpu is not possible: torch finds no GPU here. Use trainer=cpu or trainer=auto"
        )
    if gpu and trainer.accelerator != "cpu" and trainer.devices > gpu_count(gpu):
        raise InputError(
            f"trainer.devices={trainer.devices} is not possible: torch finds {counted(gpu_count(gpu), 'GPU')} here."
            " Use fewer, or trainer.accelerator=cpu"
        )
    cores = os.cpu_count() or 1
    if (not gpu or trainer.accelerator == "cpu") and trainer.devices > max(2, cores):  # two are what trainer=ddp has
        raise InputError(
            f"trainer.devices={trainer.devices} is not possible: this machine has {counted(cores, 'CPU core')}, and"
            " each device is a process that needs one. Use fewer"
        )
    kind = gpu if gpu and trainer.accelerator != "cpu" else "cpu"
    default = default_threads()  # also where an earlier run of this process changed it
    torch.set_num_threads(trainer.num_threads if isinstance(trainer.num_threads, int) else threads or default)
    keep_memory = kind == "cpu" and trainer.keep_memory and keep_freed_memory()
    precision = trainer.precision if trainer.precision != "auto" else _precision(kind)
    name = cpu_name() if kind == "cpu" else gpu_name(kind)
    winograd_on = use_winograd(kind, precision, trainer)
    is_compiled = _compiles(kind, trainer.compile)
    return Device(kind, name, precision, torch.get_num_threads(), keep_memory, is_compiled, winograd_on)


def dtype_of(precision: str) -> torch.dtype:
    """The type that convolutions compute in with `trainer.precision`, `bf16` or `fp32`."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def use_winograd(kind: str, precision: str, trainer: Trainer) -> bool:
    """Set whether the convolutions of this process may be Winograd's, as the settings say, and return it.

    Raises InputError for trainer.winograd=on where they are not possible.
    """
    why = "" if trainer.winograd == "off" else direct_because(kind, precision, trainer)
    if trainer.winograd == "on" and why:
        raise InputError(f"trainer.winograd=on is not possible: {why}. Use trainer.winograd=auto")
    use, dtype = trainer.winograd != "off" and why is None, dtype_of(precision)
    winograd.use_winograd(use, dtype)
    if use:
        norm_gelu.obstacle(dtype)  # which may build its library: before the clock starts
    return use


def direct_because(kind: str, precision: str, trainer: Trainer) -> str | None:
    """Why Winograd's convolutions are not possible, or for `auto` not advisable; None if they are."""
    if kind != "cpu":
        return "it is for CPUs"
    if not trainer.channels_last:
        return "it needs trainer.channels_last=true"
    dtype = dtype_of(precision)
    is_open = trainer.winograd == "auto" and not winograd_speed.is_measured(dtype)
    if is_open and precision == "bf16":
        return "in bf16 it was not measured with this processor's instructions; trainer.winograd=on tries it"
    if why := winograd.obstacle(dtype):
        return why
    if is_open and not winograd_speed.is_faster():
        return "by a test of one layer, direct ones are as fast on this processor"
    return None


def prepare_in_time(config: Config, threads: int | None = None) -> Device:
    """`prepare` for a run: with a time limit, the number of CPU threads is measured, in about a tenth of a second.

    Only where `trainer.num_threads` is `auto`. All ranks get the number of the first one.

    Args:
        threads: the number, if it was measured a moment ago.

    Raises what `prepare` raises.
    """
    trainer = config.trainer
    device = prepare(trainer, threads)
    if threads or trainer.num_threads != "auto" or config.budget.seconds is None or device.kind != "cpu":
        return device
    most = max(1, default_threads() // trainer.devices)  # the processes share the cores
    threads = from_first_rank("threads", lambda: choose_threads(most))
    return device if threads == device.threads else prepare(trainer, threads)


def _precision(kind: str) -> str:
    """`bf16` where the hardware is faster with it, else `fp32`; the same on all ranks, as a CPU measures it.

    Apple's GPUs get `fp32`: nobody has measured bf16 there.
    """
    if kind == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = kind == "cpu" and from_first_rank("bf16", cpu_prefers_bf16)
    return "bf16" if faster else "fp32"


def _compiles(kind: str, wanted: bool | None) -> bool:
    """Whether to compile: as wanted, else on GPUs that torch can compile for.

    Raises InputError if it is wanted and the compiler is missing.
    """
    able = has_triton() if kind == "cuda" else any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    if wanted and not able:
        needed = "triton" if kind == "cuda" else "a C++ compiler such as g++"
        raise InputError(f"trainer.compile=true is not possible: it needs {needed}. Install it, or leave compile out")
    return kind == "cuda" and able if wanted is None else wanted


@functools.cache
def cpu_prefers_bf16() -> bool:
    """Whether the CPU multiplies bf16 faster than fp32.

    Without instructions for it bf16 is many times slower. AMX makes it faster. Whether AVX-512's do is measured in
    20 ms: a step was more than twice as fast with them on an AMD EPYC, half as fast on an Intel Xeon without AMX.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and _prefers(torch.bfloat16, torch.float32)


def _prefers(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether the CPU multiplies matrices of the one type faster, by the fastest product of each."""
    matrices = {dtype: torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype) for dtype in (one, other)}
    seconds = dict.fromkeys(matrices, float("inf"))
    for _ in range(PRODUCTS):
        for dtype, matrix in matrices.items():  # by turns, so that a busy machine slows both down
            started = time.perf_counter()
            matrix @ matrix
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[one] < seconds[other]


def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_freed_memory() -> bool:
    """Tell glibc to keep large freed blocks instead of returning them to the system; return whether this is glibc.

    A training step frees and takes back its activations; with the defaults each page is faulted in again every step,
    which costs a DavidNet step a quarter of its time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
    return True
