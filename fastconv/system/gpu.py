"""The GPU that torch computes on: NVIDIA's (`cuda`) or Apple's (`mps`), by the same functions.

A kind is the type of a torch device: `cuda`, `mps` or `cpu`.
"""

from typing import Protocol, cast

import torch


class Event(Protocol):
    """A mark in the work that a GPU was given, such as `torch.cuda.Event` and `torch.mps.Event`."""

    def query(self) -> bool:
        """Whether the work before it is done."""
        ...

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        ...


def find_gpu() -> str | None:
    """The kind of the GPU that torch finds here; None if there is none."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def gpu_count(kind: str) -> int:
    """Number of GPUs of a kind. A computer of Apple's has one."""
    return torch.cuda.device_count() if kind == "cuda" else 1


def gpu_name(kind: str) -> str:
    """The model name of the first GPU."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"{torch.backends.mps.get_name()} GPU"


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything that it was given; on a CPU, it has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def recorded_event(device: torch.device) -> Event | None:
    """An event behind everything that a device was given; None on a CPU, which has done it."""
    if device.type == "cpu":
        return None
    event = torch.mps.Event() if device.type == "mps" else torch.cuda.Event()
    event.record()
    return cast(Event, event)


def free_bytes(kind: str) -> int:
    """Free bytes of the GPU's memory; of Apple's, which is the computer's, those that Metal recommends to use."""
    if kind == "cuda":
        return torch.cuda.mem_get_info()[0]
    return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())


def peak_bytes(kind: str) -> int:
    """The most bytes of the GPU's memory that this process had; of Apple's those that it has, as it keeps them."""
    return torch.cuda.max_memory_allocated() if kind == "cuda" else torch.mps.driver_allocated_memory()


def forget_peak() -> None:
    """Count the peak anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
