"""Images that rest: a small network marks those that it knows, which are then left out of every other epoch.

What is known already teaches little: the time goes to the others. That a small network can say it beforehand is of
Coleman et al. 2020 (Selection via proxy, arXiv 1906.11829), who leave such images out altogether; so the stream of the
run can still be computed ahead.
"""

import contextlib
import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from fastconv.budget.autotune.proxy import train_proxy
from fastconv.budget.autotune.scaling_law import MODEL_SIZES
from fastconv.budget.hardware import Device
from fastconv.data.augment.plan import SkipSchedule
from fastconv.data.batches import StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import OnlineStream, StreamSpec
from fastconv.system.distributed import from_first_rank
from fastconv.system.files import write_atomically

# The network that marks, and how it learns: in one epoch, or more if that has fewer steps.
PROXY, STEPS, LEAST_BATCH, MOST_BATCH, SMOOTHING = MODEL_SIZES[1].network, 100, 125, 500, 0.2
SCORED_AT_ONCE = 500


def proxy_steps(count: int) -> tuple[int, int]:
    """Steps, and images of each, in which the network learns from so many images."""
    size = min(count, max(LEAST_BATCH, min(MOST_BATCH, count // STEPS)))
    return max(STEPS, count // size), size


def skip_schedule(spec: StreamSpec, data: ImageData, device: Device, share: float, cache: Path) -> SkipSchedule:
    """Which of the images rest in which epoch, so that each epoch leaves out such a share of them.

    Marked once for a stream, share and kind of device, and kept in `cache`; of several ranks the first one does it.

    Args:
        spec: the stream of all images, of which the small network learns in one epoch.
        share: in (0, 0.5); twice as many images rest, half of them at a time.
    """
    about = {"stream": spec.fingerprint, "share": share, "network": asdict(PROXY)}
    about |= {"device": device.kind, "precision": device.precision, "torch": torch.__version__}
    path = cache / f"skip_schedule-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}.npy"

    def mark() -> str:
        if _read(path, len(data)) is None:
            content = io.BytesIO()
            np.save(content, skips(proxy_confidence(spec, data, device), share))
            write_atomically(path, content.getvalue())
        return str(path)

    from_first_rank("skip_schedule", mark)
    return SkipSchedule(_read(path, len(data)))


def _read(path: Path, count: int) -> np.ndarray | None:
    """The skips that are kept; None if they are not there or of something else."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        found = np.load(path)
        return found if found.shape == (count,) and found.dtype == np.int8 else None
    return None


def skips(sure: np.ndarray, share: float) -> np.ndarray:
    """When each image rests, int8 [N] as `SkipSchedule` has them, by how surely it is known, float [N]: of those known best
    the first rests in even epochs, the second in odd ones, and so on."""
    each = round(share * len(sure))
    best = np.argsort(-sure, kind="stable")[: 2 * each]
    found = np.zeros(len(sure), np.int8)
    found[best[::2]], found[best[1::2]] = 1, 2
    return found


def proxy_confidence(spec: StreamSpec, data: ImageData, device: Device) -> np.ndarray:
    """How probable the small network takes each image's label, float32 [N]."""
    steps, size = proxy_steps(len(data))
    batches = StreamBatches(OnlineStream(spec, data), size, size)
    module = train_proxy(data, PROXY, device, batches, steps, SMOOTHING)
    found = []
    with torch.no_grad(), device.autocast():
        for at in range(0, len(data), SCORED_AT_ONCE):
            images = torch.tensor(data.images[at : at + SCORED_AT_ONCE], device=device.kind)
            found.append(module(images).float().softmax(1).cpu().numpy())
    return np.concatenate(found)[np.arange(len(data)), data.labels]
