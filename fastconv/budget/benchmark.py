"""A short measurement of how fast this machine trains a network."""

import contextlib
import dataclasses
import hashlib
import json
import platform
import re
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from fastconv.budget.hardware import Device
from fastconv.models import build_model
from fastconv.optim import OPTIMIZERS
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically

# Microbatches timed, and seconds after which it stops at three.
MICROBATCHES = 5
ENOUGH_SECONDS = 2.0
# Images with which a network's needs are counted: batch norm has no statistics of one.
PAIR = 2
# Weights in bytes beyond which even two images take long.
LARGE_BYTES = 2**28


@dataclass(frozen=True)
class BenchmarkKey:
    """What a speed profile depends on."""

    model: str
    settings: dict
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    micro_batch_size: int
    channels_last: bool
    optimizer: str


@dataclass(frozen=True)
class SpeedProfile:
    """Seconds per optimizer step (forward, backward, update), seconds per image scored, the peak memory in MB, the
    seconds of a step that are the update's, those that it takes to measure all this on a device that is warm, and how
    many more it took the first time (on a GPU 0: what starts there says nothing of the network)."""

    step_seconds: float
    score_seconds: float
    memory_mb: float
    update_seconds: float = 0.0
    benchmark_seconds: float = 0.0
    first_seconds: float = 0.0


def benchmark(
    key: BenchmarkKey, device: Device, cache: Path, limit: float | None = None, repeats: int = 1
) -> SpeedProfile:
    """Measure, or read what was measured on this machine for this key before.

    The benchmark makes a network of its own and leaves the random state as it is: it never changes a run.

    Args:
        limit: seconds in which a step must fit; None for any.
        repeats: how often to have measured, the calls before included; the fastest counts, as whatever else the machine
            does makes it slower only.

    Raises InputError, before anything is measured, for a network that needs more memory than there is (the system would
    end the process, and say nothing) or far more time than the limit.
    """
    about = {"key": asdict(key), "device": asdict(device), "torch": torch.__version__, "host": platform.node()}
    path = cache / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}.json"
    known, done = None, 0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text())
        known, done = SpeedProfile(**kept["benchmark"]), kept.get("repeats", 1)
    if known and done >= repeats:
        return known
    if not known:
        began = time.perf_counter()
        _require_room_and_time(key, device, limit)
        known, done = _measure(key, device), 1
        if device.kind == "cpu":
            more = time.perf_counter() - began - known.benchmark_seconds
            known = dataclasses.replace(known, first_seconds=max(0.0, more))
    found = [known, *(_measure(key, device) for _ in range(repeats - done))]
    fastest = min(found, key=lambda each: each.step_seconds)
    fastest = dataclasses.replace(fastest, first_seconds=known.first_seconds)
    write_atomically(path, json.dumps({"benchmark": asdict(fastest), "repeats": repeats, **about}, indent=1).encode())
    return fastest


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
    """Raise InputError for a budget, in seconds, in which not even one step fits beside what is needed anyway."""
    if step + besides > limit:
        raise InputError(
            f"budget.seconds={limit:g} is too short for one step, which takes {step:.2g} s or more here"
            f" (and {besides:.2g} s are needed besides). Give more seconds, a smaller batch_size or a narrower network"
        )


def least_needs(key: BenchmarkKey, device: Device) -> tuple[int, int]:
    """Bytes of memory and floating-point operations that an optimizer step surely needs.

    The memory is that of weights, of gradients and momentum of those that learn, and of what a microbatch keeps for its
    gradients; the operations are those of the forward pass, a third of the whole, as some convolutions take fewer.
    """
    height, width, channels = key.shape

    def build(where: str) -> torch.nn.Module:
        with torch.random.fork_rng(), torch.device(where):
            return build_model(key.model, channels, key.classes, **key.settings)

    tensors = list(build("meta").parameters())
    weights = sum(weight.numel() * weight.itemsize for weight in tensors)
    learned = sum(weight.numel() * weight.itemsize for weight in tensors if weight.requires_grad)
    # Tensors without memory take no time, but for the second in which torch imports what they need.
    where = device.kind if weights < LARGE_BYTES else "meta"
    model = build(where).to(where)
    images = torch.zeros(PAIR, channels, height, width, device=where)
    operations, kept = 0, {}

    def count(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal operations
        if layer.weight.ndim > 1:  # convolutions and linear layers: the whole weight for each pixel
            operations += 2 * layer.weight.numel() * output.numel() // output.shape[1]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage, as layers keep each other's results
        return tensor

    for layer in model.modules():
        if isinstance(getattr(layer, "weight", None), torch.Tensor):
            layer.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    activations = sum(
        tensor.numel() * (device.dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
        for storage, tensor in kept.items()
        if storage not in own
    )
    return weights + 2 * learned + activations * key.micro_batch_size // PAIR, operations * key.batch_size // PAIR


def _operations_per_second(device: Device, size: int = 1024) -> float:
    """What the device does in a matrix product, which no network reaches."""
    factor = torch.ones(size, size, dtype=device.dtype, device=device.kind)
    return 2 * size**3 / min(_seconds(lambda: factor @ factor, device, count=3) for _ in range(2))


def _measure(key: BenchmarkKey, device: Device) -> SpeedProfile:
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
    optimizer = OPTIMIZERS[key.optimizer]().build(model, key.batch_size, device.precision)
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


def _seconds(work, device: Device, count: int = MICROBATCHES) -> float:
    """Median time of a call."""
    times: list[float] = []
    while len(times) < count and (len(times) < 3 or sum(times) < ENOUGH_SECONDS):
        started = time.perf_counter()
        work()
        if device.kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)


def forget_peak_memory() -> None:
    """Let the peak start anew: a run's is not that of the run before it in the same process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # another system than Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(kind: str) -> float:
    """The largest memory in MB that this process has had, on a GPU if `kind` is `cuda`."""
    if kind == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6
    except (OSError, TypeError):  # elsewhere, in bytes, and never less than before
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
