"""Benchmarks of networks: short measurements of how fast this machine trains them."""

import contextlib
import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.budget.bounds import is_plausible, least_needs, least_seconds, machine_of, require_room, require_seconds
from fastconv.budget.hardware import Device
from fastconv.models import build_model
from fastconv.optim import optimizer_of
from fastconv.system.documents import read_json, record_of
from fastconv.system.files import keep_measurement
from fastconv.system.gpu import forget_peak, peak_bytes, synchronize
from fastconv.system.json_text import as_json, json_digest
from fastconv.system.targets import source_digest, targets_in

# Micro batches that are timed; after this many seconds, three of them are enough for a median.
MICROBATCHES, MIN_MICROBATCHES = 5, 3
ENOUGH_SECONDS = 2.0
# Times of micro batches agree if their median is at most this many times the shortest; benchmarks, if one takes at most
# this many times as long as the other. Both are judgements.
AGREEING_SPREAD, AGREEING_RATIO = 1.6, 1.5
# Benchmarks that are made because others disagree, at most.
MAX_EXTRA = 3


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
        optimizer: name of the optimizer, with its default settings; or the settings of a user's own
            (`fastconv.optim.optimizer_key`).
    """

    model: str
    settings: dict[str, Any]
    shape: tuple[int, int, int]
    classes: int
    batch_size: int
    micro_batch_size: int
    channels_last: bool
    optimizer: str | dict[str, Any]

    def sources(self) -> dict[str, str]:
        """Digests of the source of a user's own components: other code is another speed."""
        targets = targets_in([self.settings, self.optimizer]).values()
        return {target: source_digest(target) for target in targets}


@dataclass(frozen=True)
class SpeedProfile:
    """The speed at which a machine trains and scores a network.

    Args:
        step_seconds: seconds per optimizer step: forward, backward, update.
        score_seconds: seconds per scored image.
        memory_mb: peak memory in MB.
        update_seconds: seconds of the update in a step.
        benchmark_seconds: seconds that the benchmark takes on a device that is warm.
        first_seconds: seconds that the first benchmark took beyond that; 0 on a GPU, whose start does not depend on
            the network.
        spread: the median time of its micro batches, divided by the shortest.
        is_steady: whether it agrees with itself and with what the CPU can do; else something disturbed it, and it is
            not kept.
        path: the file in which it is kept; empty if it is not.
    """

    step_seconds: float
    score_seconds: float
    memory_mb: float
    update_seconds: float = 0.0
    benchmark_seconds: float = 0.0
    first_seconds: float = 0.0
    spread: float = 1.0
    is_steady: bool = True
    path: str = ""


Measure = Callable[[BenchmarkKey, Device], SpeedProfile]


def measure_speed(key: BenchmarkKey, device: Device) -> SpeedProfile:
    """Measure the speed of a network once, on random images. Leaves the random state as it is."""
    model, images, labels = _network_and_batch(key, device)
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

    first = _times(learn, device, count=1)
    update()
    began = time.perf_counter()
    # A large network's first micro batch, though slower than others, is all that there is time for.
    is_long = device.kind == "cpu" and first[0] > ENOUGH_SECONDS
    times = first if is_long else _times(learn, device)
    learn_seconds, update_seconds = median(times), median(_times(update, device, count=2))
    model.eval()
    first = _times(score, device, count=1)
    score_seconds = median(first if is_long else _times(score, device)) / key.micro_batch_size
    parts = key.batch_size // key.micro_batch_size
    step_seconds = parts * learn_seconds + update_seconds
    # On a warm device, the first forward and backward pass and the first update take as long as the others.
    benchmark_seconds = learn_seconds + update_seconds + time.perf_counter() - began
    return SpeedProfile(
        step_seconds,
        score_seconds,
        peak_memory_mb(device.kind),
        update_seconds,
        benchmark_seconds,
        spread=learn_seconds / min(times),
    )


def _network_and_batch(key: BenchmarkKey, device: Device) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A network on the device, and a random micro batch for it: images float [B, C, H, W] and labels int64 [B]."""
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
    return model, images, labels


def _times(work: Callable[[], object], device: Device, count: int = MICROBATCHES) -> list[float]:
    """Seconds of each of `count` calls, or of fewer, but at least three, if they take long."""
    times: list[float] = []
    while len(times) < count and (len(times) < MIN_MICROBATCHES or sum(times) < ENOUGH_SECONDS):
        started = time.perf_counter()
        work()
        synchronize(torch.device(device.kind))
        times.append(time.perf_counter() - started)
    return times


def benchmark(
    key: BenchmarkKey,
    device: Device,
    cache: Path,
    limit: float | None = None,
    repeats: int = 1,
    measure: Measure | None = None,
    extra_seconds: float = ENOUGH_SECONDS,
) -> SpeedProfile:
    """Measure a network on this machine, or read an earlier measurement with the same key from the cache.

    The benchmark builds a network of its own and leaves the random state as it is: it never changes a run. If its times
    disagree with each other, or with the operations of the network, something disturbed it: it is made again, and kept
    only if two agree in the end.

    Args:
        cache: folder in which measurements are kept.
        limit: seconds in which a step must fit; None for no limit.
        repeats: number of benchmarks, earlier calls included. The fastest one counts, as other work on the machine only
            makes it slower; but not if the others agree that it cannot be true.
        measure: measures once; `measure_speed` if None.
        extra_seconds: seconds that further benchmarks may take because of a disturbance.

    Raises InputError, before anything is measured, for a network that needs more memory than is free (the system would
    end the process without a message) or far more time than the limit.
    """
    measure = measure or measure_speed
    described = {"key": asdict(key), **machine_of(device)}
    if sources := key.sources():
        described["sources"] = sources
    path = cache / f"{json_digest(described)}.json"
    kept, done = _read(path)
    needed, operations = least_needs(key, device) if device.kind == "cpu" or not kept else (0, 0)

    def possible(profiles: list[SpeedProfile]) -> list[SpeedProfile]:
        return [each for each in profiles if is_plausible(each.step_seconds, operations, device, cache)]

    if kept and not possible([kept]):  # an earlier version kept these too
        kept = None
    if kept and done >= repeats:
        return kept
    if kept:
        first = kept
    else:
        first, done = _first_benchmark(key, device, cache, limit, needed, operations, measure), 1
    measured = [first, *(measure(key, device) for _ in range(repeats - done))]
    done, extra, is_own = max(done, repeats), 0.0, device.kind != "cpu"
    while not (found := _agreed(measured, possible(measured), is_own)) and len(measured) < done + MAX_EXTRA:
        extra += min(each.benchmark_seconds for each in measured)
        if extra > extra_seconds:
            break
        measured.append(measure(key, device))
    if not found:
        fastest = min(possible(measured) or measured, key=lambda each: each.step_seconds)
        return dataclasses.replace(fastest, first_seconds=first.first_seconds, is_steady=False)
    found = dataclasses.replace(found, first_seconds=first.first_seconds, path=str(path))
    content = {"speed_profile": asdict(found), "repeats": done, **described}
    keep_measurement(path, as_json(content, indent=1).encode())
    return found


def _first_benchmark(
    key: BenchmarkKey, device: Device, cache: Path, limit: float | None, needed: int, operations: int, measure: Measure
) -> SpeedProfile:
    """The first benchmark of a network, with the seconds that only the first one takes. Raises what `benchmark` does.

    Args:
        cache, limit, measure: as for `benchmark`.
        needed, operations: of a step, as `least_needs` returns them.
    """
    began = time.perf_counter()
    require_room(key, device, needed)
    if limit is not None and device.kind == "cpu":  # on a GPU the benchmark itself is as quick
        require_seconds(limit, least_seconds(operations, device, cache))
    profile, first_seconds = measure(key, device), 0.0
    if device.kind == "cpu":
        first_seconds = max(0.0, time.perf_counter() - began - profile.benchmark_seconds)
    return dataclasses.replace(profile, first_seconds=first_seconds)


def _agreed(measured: list[SpeedProfile], possible: list[SpeedProfile], is_own: bool) -> SpeedProfile | None:
    """The fastest possible profile that another one confirms, or the only one if it agrees with itself; else None.

    Args:
        possible: those of the measured profiles that the device can have.
        is_own: whether the device is the run's own, as a GPU is: then the fastest counts.
    """
    if is_own:
        return min(measured, key=lambda each: each.step_seconds)
    if len(measured) == 1:
        return next((each for each in possible if each.spread <= AGREEING_SPREAD), None)
    pairs = itertools.pairwise(sorted(possible, key=lambda each: each.step_seconds))
    return next((one for one, other in pairs if other.step_seconds <= AGREEING_RATIO * one.step_seconds), None)


def _read(path: Path) -> tuple[SpeedProfile | None, int]:
    """A speed profile from the cache, and from how many benchmarks it comes; (None, 0) if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = read_json(path)
        profile = dataclasses.replace(record_of(SpeedProfile, content["speed_profile"]), path=str(path))
        done = content["repeats"]
        is_possible = profile.update_seconds < profile.step_seconds and profile.score_seconds  # the update is in a step
        if type(done) is int and done >= 1 and profile.is_steady and is_possible:
            return profile, done
    return None, 0


def forget_peak_memory() -> None:
    """Reset the peak: a run's must not be that of the run before it in the same process."""
    forget_peak()
    with contextlib.suppress(OSError):  # another system than Linux
        Path("/proc/self/clear_refs").write_bytes(b"5")


def peak_memory_mb(kind: str) -> float:
    """The peak memory of this process in MB, on a GPU unless `kind` is `cpu`; 0 where the system does not say."""
    if kind != "cpu":
        return peak_bytes(kind) / 1e6
    with contextlib.suppress(OSError):
        if peak := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8")):
            return int(peak[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows has no such module
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # never reset
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6  # of macOS in bytes, else in KiB
