"""Benchmarks of networks: short measurements of how fast this machine trains them."""

import contextlib
import dataclasses
import hashlib
import json
import platform
import re
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.budget.hardware import Device
from fastconv.models import blueprint, build_model
from fastconv.optim import optimizer_of
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically
from fastconv.system.json_text import as_json
from fastconv.system.targets import source_digest, targets_in

# Micro batches that are timed; after this many seconds, three of them are enough for a median.
MICROBATCHES, MIN_MICROBATCHES = 5, 3
ENOUGH_SECONDS = 2.0
# Images with which memory and operations are counted: batch norm has no statistics of a single one.
PAIR = 2
# Bytes of weights beyond which even two images take long; needs are then counted on tensors without memory.
LARGE_BYTES = 2**28


@dataclass(frozen=True)
class BenchmarkKey:
    """Everything about a run that its speed profile depends on.

    Args:
        model, settings: name and settings of the network.
        shape: height, width and channels of an image.
        classes: number of classes.
        batch_size: images per optimizer step on one device.
        micro_batch_size: images computed at once.
        channels_last: the memory format.
        optimizer: name of the optimizer, with its default settings.
    """

    model: str
    settings: dict[str, Any]
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    micro_batch_size: int
    channels_last: bool
    optimizer: str | dict[str, Any]
    """A name, or the settings of a user's own (`fastconv.optim.optimizer_key`)."""

    def sources(self) -> dict[str, str]:
        """Digests of the source of a user's own components: other code is another speed."""
        targets = targets_in([self.settings, self.optimizer]).values()
        return {target: source_digest(target) for target in targets}


@dataclass(frozen=True)
class SpeedProfile:
    """How fast a machine trains and scores a network.

    Args:
        step_seconds: seconds per optimizer step: forward, backward, update.
        score_seconds: seconds per scored image.
        memory_mb: peak memory in MB.
        update_seconds: seconds of the update in a step.
        benchmark_seconds: seconds that the benchmark takes on a device that is warm.
        first_seconds: seconds that the first benchmark took beyond that; 0 on a GPU, whose start does not depend on
            the network.
    """

    step_seconds: float
    score_seconds: float
    memory_mb: float
    update_seconds: float = 0.0
    benchmark_seconds: float = 0.0
    first_seconds: float = 0.0


def measure_speed(key: BenchmarkKey, device: Device) -> SpeedProfile:
    """Measure the speed of a network now, on random images."""
    with torch.random.fork_rng():
        height, width, channels = key.shape
        with torch.device(device.kind):  # a GPU draws the weights of a large network sooner than a CPU
            model = build_model(key.model, channels, key.classes, **key.settings).to(device.kind)
        images = torch.randn(key.micro_batch_size, height, width, channels, device=device.kind).permute(0, 3, 1, 2)
        labels = torch.randint(key.classes, (key.micro_batch_size,), device=device.kind)
    if key.channels_last:
        model.to(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    optimizer = optimizer_of(key.optimizer).build(model, key.batch_size, device.precision)
    forward = torch.compile(model, dynamic=False) if device.compile else model

    def learn() -> None:
        with device.autocast():
            loss = F.cross_entropy(forward(images), labels)
        loss.backward()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def score() -> None:
        with device.autocast():
            model(images)

    learn()
    update()
    began = time.perf_counter()
    learn_seconds, update_seconds = _seconds(learn, device), _seconds(update, device, count=2)
    model.eval()
    score()
    score_seconds = _seconds(score, device) / key.micro_batch_size
    parts = key.batch_size // key.micro_batch_size
    step_seconds = parts * learn_seconds + update_seconds
    benchmark_seconds = learn_seconds + update_seconds + time.perf_counter() - began  # the first of each is slower
    return SpeedProfile(step_seconds, score_seconds, peak_memory_mb(device.kind), update_seconds, benchmark_seconds)


def _seconds(work: Callable[[], object], device: Device, count: int = MICROBATCHES) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    while len(times) < count and (len(times) < MIN_MICROBATCHES or sum(times) < ENOUGH_SECONDS):
        started = time.perf_counter()
        work()
        if device.kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


def benchmark(
    key: BenchmarkKey,
    device: Device,
    cache: Path,
    limit: float | None = None,
    repeats: int = 1,
    measure: Callable[[BenchmarkKey, Device], SpeedProfile] = measure_speed,
) -> SpeedProfile:
    """Measure a network on this machine, or read an earlier measurement with the same key from the cache.

    The benchmark builds a network of its own and leaves the random state as it is: it never changes a run.

    Args:
        cache: folder in which measurements are kept.
        limit: seconds in which a step must fit; None for no limit.
        repeats: number of benchmarks, earlier calls included. The fastest one counts, as other work on the machine only
            makes it slower.
        measure: measures once.

    Raises InputError, before anything is measured, for a network that needs more memory than is free (the system would
    end the process without a message) or far more time than the limit.
    """
    described = {"key": asdict(key), "device": asdict(device), "torch": torch.__version__, "host": platform.node()}
    if sources := key.sources():
        described["sources"] = sources
    path = cache / f"{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]}.json"
    profile, done = _read(path)
    if profile and done >= repeats:
        return profile
    if not profile:
        began = time.perf_counter()
        _require_room_and_time(key, device, limit)
        profile, done = measure(key, device), 1
        if device.kind == "cpu":
            beyond = time.perf_counter() - began - profile.benchmark_seconds
            profile = dataclasses.replace(profile, first_seconds=max(0.0, beyond))
    measured = [profile, *(measure(key, device) for _ in range(repeats - done))]
    fastest = min(measured, key=lambda each: each.step_seconds)
    fastest = dataclasses.replace(fastest, first_seconds=profile.first_seconds)
    content = {"speed_profile": asdict(fastest), "repeats": repeats, **described}
    write_atomically(path, as_json(content, indent=1).encode())
    return fastest


def _read(path: Path) -> tuple[SpeedProfile | None, int]:
    """A speed profile from the cache and of how many benchmarks it is; (None, 0) if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        return SpeedProfile(**content["speed_profile"]), content["repeats"]
    return None, 0


def _require_room_and_time(key: BenchmarkKey, device: Device, limit: float | None) -> None:
    needed, operations = least_needs(key, device)
    free = device.free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"model {key.model} with micro_batch_size={key.micro_batch_size} needs {needed / 1e9:.1f} GB of memory at"
            f" least, {free / 1e9:.1f} GB are free. Give a smaller micro_batch_size or a narrower network"
        )
    if limit is not None and device.kind == "cpu":  # on a GPU the benchmark itself is as quick
        require_seconds(limit, operations / _operations_per_second(device))


def require_seconds(limit: float, step: float, besides: float = 0.0) -> None:
    """Raise InputError for a budget in which not even one step fits.

    Args:
        limit: the budget in seconds.
        step: seconds of a step.
        besides: seconds of the budget that are needed for other things.
    """
    if step + besides > limit:
        raise InputError(
            f"budget.seconds={limit:g} is too short for one step, which takes {step:.2g} s or more here"
            f" (and {besides:.2g} s are needed besides). Give more seconds, a smaller batch_size or a narrower network"
        )


def least_needs(key: BenchmarkKey, device: Device, large_bytes: int = LARGE_BYTES) -> tuple[int, int]:
    """Lower bounds of an optimizer step's memory, in bytes, and of its floating-point operations.

    The memory is that of weights, of gradients and momentum of trainable weights, and of what a micro batch keeps for
    its gradients. The operations are those of the forward pass, a third of the whole, as some convolution algorithms
    take fewer.

    Args:
        large_bytes: bytes of weights from which on the needs are counted on tensors without memory.
    """
    height, width, channels = key.shape

    model = blueprint(key.model, channels, key.classes, **key.settings)
    parameters = list(model.parameters())
    weights = sum(weight.numel() * weight.itemsize for weight in parameters)
    trainable = sum(weight.numel() * weight.itemsize for weight in parameters if weight.requires_grad)
    # Tensors without memory take no time, but torch imports what they need in a second.
    where = device.kind if weights < large_bytes else "meta"
    if where != "meta":
        with torch.random.fork_rng(), torch.device(where):
            model = build_model(key.model, channels, key.classes, **key.settings).to(where)
    images = torch.zeros(PAIR, channels, height, width, device=where)
    operations, kept = 0, {}

    def count(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        if isinstance(layer.weight, Tensor) and layer.weight.ndim > 1:  # convolutions and linear layers
            operations += 2 * layer.weight.numel() * output.numel() // output.shape[1]  # all weights for each pixel

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage, as layers keep each other's results
        return tensor

    for layer in model.modules():
        if isinstance(getattr(layer, "weight", None), Tensor):
            layer.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    activations = sum(
        tensor.numel() * (device.dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
        for storage, tensor in kept.items()
        if storage not in own
    )
    return weights + 2 * trainable + activations * key.micro_batch_size // PAIR, operations * key.batch_size // PAIR


def _operations_per_second(device: Device, size: int = 1024) -> float:
    """Floating-point operations per second of a matrix product, which no network reaches."""
    factor = torch.ones(size, size, dtype=device.dtype, device=device.kind)
    return 2 * size**3 / min(_seconds(lambda: factor @ factor, device, count=3) for _ in range(2))


def forget_peak_memory() -> None:
    """Reset the peak: a run's must not be that of the run before it in the same process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # another system than Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(kind: str) -> float:
    """The peak memory of this process in MB, on a GPU if `kind` is `cuda`."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError):
        if peak := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(peak[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # elsewhere in bytes, and never reset
