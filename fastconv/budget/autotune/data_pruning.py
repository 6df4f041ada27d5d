"""Data pruning by a proxy network: images on which it is most confident are left out of every other epoch.

Images that a network classifies with confidence teach little, so the time is for the others. Coleman et al. 2020
(Selection via proxy, arXiv 1906.11829) let a small network select them beforehand, and leave them out altogether. As
the selection is made before training, the stream of the run can still be computed ahead.
"""

import contextlib
import io
import itertools
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from fastconv.budget.autotune.proxy import train_proxy
from fastconv.budget.autotune.scaling_law import pruning_proxy
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.hardware import Device
from fastconv.config.schema import Budget
from fastconv.data.augment.plan import SkipSchedule
from fastconv.data.batches import StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import OnlineStream, StreamSpec
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError
from fastconv.system.files import keep_measurement, read_file
from fastconv.system.json_text import json_digest

# Bytes before the numbers of an array in a file, at most.
HEADER_BYTES = 1024


def proxy_steps(count: int, settings: Autotune = AUTOTUNE) -> tuple[int, int]:
    """Optimizer steps and batch size with which the proxy network learns from `count` images."""
    smallest, largest = settings.proxy_min_batch_size, settings.proxy_max_batch_size
    batch_size = min(count, max(smallest, min(largest, count // settings.proxy_steps)))
    return max(settings.proxy_steps, count // batch_size), batch_size


def most_seconds(budget: Budget) -> float:
    """Seconds after which the proxy network stops training; infinite if the budget does not limit it."""
    if budget.seconds is None or "precompute" not in budget.counts:
        return math.inf
    return AUTOTUNE.pruning_max_share * AUTOTUNE.pruning_share * budget.seconds


def skip_schedule(
    spec: StreamSpec,
    data: ImageData,
    device: Device,
    share: float,
    cache: Path,
    settings: Autotune = AUTOTUNE,
    seconds: float = math.inf,
) -> SkipSchedule:
    """Select the images that each epoch skips.

    The selection is made once for a stream, share and kind of device, and kept in `cache`; the first rank makes it.

    Args:
        spec: the stream of all images, from which the proxy network learns.
        share: share of the images that an epoch skips, in (0, 0.5); twice as many are selected, and skipped by turns.
        seconds: after which the training of the proxy network stops, as a machine may be slower than its benchmark.

    Raises InputError where a rank cannot read the cache of the first one.
    """
    key = {"stream": spec.fingerprint, "share": share, "network": asdict(pruning_proxy(data.side))}
    key |= {"steps": proxy_steps(len(data), settings), "label_smoothing": settings.proxy_label_smoothing}
    key |= {"device": device.kind, "precision": device.precision, "torch": torch.__version__}
    path = cache / f"skip_schedule-{json_digest(key)}.npy"

    selected: np.ndarray | None = None

    def select() -> str:
        nonlocal selected
        selected = _read(path, len(data), share)
        if selected is None:
            content = io.BytesIO()
            selected = skips(proxy_confidence(spec, data, device, settings, seconds), share)
            np.save(content, selected)
            keep_measurement(path, content.getvalue())
        return str(path)

    from_first_rank("skip_schedule", select)
    selected = _read(path, len(data), share) if selected is None else selected  # on the other ranks
    if selected is None:
        raise InputError(f"{path} cannot be read by all ranks of the run: give them the same data folder")
    return SkipSchedule(selected)


def _read(path: Path, count: int, share: float) -> np.ndarray | None:
    """A schedule from the cache, int8 [N]; None if it is missing, damaged or of another number of images or share."""
    with contextlib.suppress(OSError, ValueError, EOFError, MemoryError, InputError):
        content = io.BytesIO(read_file(path, count + HEADER_BYTES))
        found: np.ndarray = np.lib.format.read_array(content, allow_pickle=False)
        if found.shape == (count,) and found.dtype == np.int8:
            skipping = round(share * count)
            skip = [int((found == turn).sum()) for turn in (0, 1, 2)]
            return found if skip == [count - 2 * skipping, skipping, skipping] else None
    return None


def skips(confidence: np.ndarray, share: float) -> np.ndarray:
    """Which epochs skip each image, int8 [N] as in `SkipSchedule`.

    Twice `share` of all images are skipped by turns, those with the highest confidence. In the order of confidence,
    even epochs skip the first, odd ones the second, and so on.

    Args:
        confidence: the proxy network's, float [N].
        share: share of the images that an epoch skips, in [0, 0.5].
    """
    count = round(share * len(confidence))
    selected = np.argsort(-confidence, kind="stable")[: 2 * count]
    schedule = np.zeros(len(confidence), np.int8)
    schedule[selected[::2]], schedule[selected[1::2]] = 1, 2
    return schedule


def proxy_confidence(
    spec: StreamSpec, data: ImageData, device: Device, settings: Autotune = AUTOTUNE, seconds: float = math.inf
) -> np.ndarray:
    """Probability that a proxy network, trained on the stream, gives to the label of each image, float32 [N].

    Its training stops after `seconds`.
    """
    began = time.perf_counter()
    steps, batch_size = proxy_steps(len(data), settings)
    stream = StreamBatches(OnlineStream(spec, data), batch_size, batch_size)
    whole = ((images[0], labels[0]) for images, labels in stream)
    batches = itertools.takewhile(lambda _: time.perf_counter() - began < seconds, whole)
    module = train_proxy(data, pruning_proxy(data.side), device, batches, steps, settings.proxy_label_smoothing)
    probabilities = []
    with torch.no_grad(), device.autocast():
        for start in range(0, len(data), settings.scoring_batch_size):
            images = torch.tensor(data.images[start : start + settings.scoring_batch_size], device=device.kind)
            probabilities.append(module(images).float().softmax(1).cpu().numpy())
    confidence: np.ndarray = np.concatenate(probabilities)[np.arange(len(data)), data.labels]
    return confidence
