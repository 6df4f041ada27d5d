"""A short measurement of how fast this machine trains this recipe."""

import contextlib
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

from fastconv.data.storage import write_atomically
from fastconv.device import Device
from fastconv.models import build_model
from fastconv.optim import SGD

# Microbatches timed, and seconds after which it stops at three.
MICROBATCHES = 8
ENOUGH_SECONDS = 2.0


@dataclass(frozen=True)
class Recipe:
    """What a probe's answer depends on."""

    model: str
    settings: dict
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    norm_batch: int
    channels_last: bool


@dataclass(frozen=True)
class Probe:
    """Seconds per optimizer step (forward, backward, update), seconds per image scored, and the peak memory in MB."""

    step_seconds: float
    score_seconds: float
    memory_mb: float


def probe(recipe: Recipe, device: Device, cache: Path) -> Probe:
    """Measure, or read what was measured on this machine for this recipe before.

    The probe makes a network of its own and leaves the random state as it is: it never changes a run.
    """
    about = {"recipe": asdict(recipe), "device": asdict(device), "torch": torch.__version__, "host": platform.node()}
    path = cache / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}.json"
    try:
        return Probe(**json.loads(path.read_text())["probe"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    measured = _measure(recipe, device)
    write_atomically(path, json.dumps({"probe": asdict(measured), **about}, indent=1).encode())
    return measured


def _measure(recipe: Recipe, device: Device) -> Probe:
    with torch.random.fork_rng():
        height, width, channels = recipe.shape
        model = build_model(recipe.model, channels, recipe.classes, **recipe.settings).to(device.kind)
        images = torch.randn(recipe.norm_batch, height, width, channels, device=device.kind).permute(0, 3, 1, 2)
        labels = torch.randint(recipe.classes, (recipe.norm_batch,), device=device.kind)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    optimizer = SGD().build(model)
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
    learn_seconds, update_seconds = _seconds(learn, device), _seconds(update, device, count=2)
    model.eval()
    score()
    score_seconds = _seconds(score, device) / recipe.norm_batch
    parts = recipe.batch_size // recipe.norm_batch
    return Probe(parts * learn_seconds + update_seconds, score_seconds, peak_memory_mb(device.kind))


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
