"""Lower bounds of what a network needs: bytes of memory, floating-point operations and seconds.

Other work on the machine does not disturb them, so they tell whether a measurement can be true.
"""

import contextlib
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastconv.budget.flops import PAIR
from fastconv.budget.hardware import Device
from fastconv.models import blueprint, build_model
from fastconv.system.documents import read_json
from fastconv.system.errors import InputError
from fastconv.system.files import keep_measurement
from fastconv.system.json_text import as_json, json_digest

if TYPE_CHECKING:
    from fastconv.budget.benchmark import BenchmarkKey

# Bytes of weights beyond which even two images take long; needs are then counted on tensors without memory.
LARGE_BYTES = 2**28
# Side of the square matrices whose product shows the speed of the machine (3 ms on two AVX2 cores; less on a GPU, which
# small ones do not fill), and their number.
PRODUCT_SIDE, PRODUCTS = {"cpu": 512, "cuda": 4096}, 6
# Parts of the time before training that are a smaller share of it are not named in a message; names of the larger ones.
SHOWN_SHARE = 0.05
PARTS = {"setup": "starting and reading", "benchmark": "measuring", "precompute": "precomputing"}
# Layers whose operations are counted: all but a few of the operations of a network, and no more than it has.
COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Training takes three times the operations of a forward pass: a gradient of the images and one of the weights.
TRAINING = 3
# No network computes faster than this many times the matrix product, even where its convolutions take 4 times fewer
# multiplications (Winograd's F(4x4, 3x3): Lavin & Gray 2016, arXiv 1509.09308; DavidNet was 2.24 times as fast). None
# of ours comes near to this many times slower: on an AVX2 core, 8-32-32 is 40 times slower on images of 8x8 pixels,
# airbench94's network 5 times on those of 32x32.
FASTEST, SLOWEST = 4.0, 1000
# The fastest of several matrix products is at most this many times slower because of other work on the machine.
BUSIEST = 100


def require_seconds(limit: float, step: float, spent: Mapping[str, float] | None = None) -> None:
    """Raise InputError for a budget in which not even one step fits.

    Args:
        limit: the budget in seconds.
        step: seconds of a step.
        spent: seconds of the budget that are spent already, by segment of the clock.
    """
    spent = spent or {}
    besides = sum(spent.values())
    if besides < limit and step + besides <= limit:
        return
    longest = sorted((seconds, segment) for segment, seconds in spent.items() if seconds >= SHOWN_SHARE * besides)
    parts = ", ".join(f"{PARTS.get(segment, segment)} {seconds:.2g} s" for seconds, segment in reversed(longest))
    if besides >= limit:
        raise InputError(
            f"budget.seconds={limit:g} was over before training began, after {besides:.2g} s: {parts}. Give more"
            " seconds, or try again when the machine is less busy"
        )
    raise InputError(
        f"budget.seconds={limit:g} is too short for one step, which takes {step:.2g} s or more here"
        f" ({besides:.2g} s are spent already{': ' * bool(parts)}{parts}). Give more seconds, a smaller batch_size or a"
        " narrower network"
    )


def require_room(key: "BenchmarkKey", device: Device, needed: int) -> None:
    """Raise InputError if a step needs more memory than is free.

    Args:
        needed: bytes.
    """
    free = device.free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"model {key.model} with micro_batch_size={key.micro_batch_size} needs {needed / 1e9:.1f} GB of memory at"
            f" least, {free / 1e9:.1f} GB are free. Give a smaller micro_batch_size or a narrower network"
        )


def least_seconds(operations: int, device: Device, cache: Path) -> float:
    """Seconds that a step takes at least: forward and backward pass, as fast as any network computes.

    Args:
        operations: floating-point operations of the step's forward pass.
        cache: folder in which measurements are kept.
    """
    return TRAINING * operations / FASTEST / operations_per_second(device, cache)


def is_plausible(step_seconds: float, operations: int, device: Device, cache: Path) -> bool:
    """Whether a device can take this long for a step: a measurement is wrong if it is shorter than possible, and
    something kept the machine busy if it is far longer. Only a CPU's is judged, and only by operations that are known.

    Args:
        operations: floating-point operations of the step's forward pass.
        cache: folder in which measurements are kept.
    """
    if device.kind != "cpu" or not operations:  # of a user's own network they may be unknown
        return True
    least = TRAINING * operations / operations_per_second(device, cache)
    return least / FASTEST <= step_seconds <= SLOWEST * least


def least_needs(key: "BenchmarkKey", device: Device, large_bytes: int = LARGE_BYTES) -> tuple[int, int]:
    """Lower bounds of an optimizer step's memory, in bytes, and of its floating-point operations.

    The memory is that of weights, of gradients and momentum of trainable weights, and of what a micro batch keeps for
    its gradients. The operations are those of the forward pass, a third of the whole, as some convolution algorithms
    take fewer.

    Args:
        large_bytes: bytes of weights from which on the needs are counted on tensors without memory.
    """
    model = blueprint(key.model, key.shape[2], key.classes, **key.settings)
    parameters = list(model.parameters())
    weights = sum(weight.numel() * weight.itemsize for weight in parameters)
    trainable = sum(weight.numel() * weight.itemsize for weight in parameters if weight.requires_grad)
    # Tensors without memory take no time, but torch imports what they need in a second.
    counted = None
    if weights >= large_bytes:
        # A user's own network may ask what is in a tensor, or make others in the memory of the CPU.
        with contextlib.suppress(RuntimeError, TypeError):
            counted = _forward_needs(model, key.shape, "meta", device.dtype)
    if counted is None:
        with torch.random.fork_rng(), torch.device(device.kind):
            model = build_model(key.model, key.shape[2], key.classes, **key.settings).to(device.kind)
        counted = _forward_needs(model, key.shape, device.kind, device.dtype)
    operations, activations = counted
    return weights + 2 * trainable + activations * key.micro_batch_size // PAIR, operations * key.batch_size // PAIR


def _forward_needs(
    model: torch.nn.Module, shape: tuple[int, int, int], where: str, dtype: torch.dtype
) -> tuple[int, int]:
    """Operations of a pair of images' forward pass, and bytes that it keeps for the gradients, weights aside.

    The operations are 0, for unknown, if less than half of the weights are in layers whose operations are counted.

    Args:
        shape: height, width and channels of an image.
        where: the device of the network, `meta` for tensors without memory.
        dtype: the type in which the network will compute.
    """
    height, width, channels = shape
    operations, kept = 0, {}

    def count(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal operations
        if isinstance(layer.weight, Tensor) and isinstance(output, Tensor):  # a subclass may return more
            outputs = output.shape[-1 if isinstance(layer, nn.Linear) else 1]
            operations += 2 * layer.weight.numel() * output.numel() // outputs  # all weights for each pixel or token

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage, as layers keep each other's results
        return tensor

    for layer in model.modules():
        if isinstance(layer, COUNTED):
            layer.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(PAIR, channels, height, width, device=where))
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    counted = sum(
        weight.numel() for layer in model.modules() if isinstance(layer, COUNTED) for weight in layer.parameters()
    )
    is_known = 2 * counted >= sum(weight.numel() for weight in model.parameters())
    return operations if is_known else 0, sum(
        tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
        for storage, tensor in kept.items()
        if storage not in own
    )


def machine_of(device: Device) -> dict[str, Any]:
    """Describe what a speed depends on besides the work: the device, torch's version and the name of the machine."""
    return {"device": asdict(device), "torch": torch.__version__, "host": platform.node()}


# Operations per second that this process has measured.
_fastest: dict[Device, float] = {}


def operations_per_second(device: Device, cache: Path) -> float:
    """Floating-point operations per second of a matrix product: the most that was ever measured on this device.

    Measured once in a process, and kept in `cache`: other work makes it slower, never faster.
    """
    described = machine_of(device)
    path = cache / f"product-{json_digest(described)}.json"
    if device not in _fastest:
        _fastest[device] = _product(device)
    known = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(path)["operations_per_second"]
        # A damaged file may have any number, and one that is too large would never be written over.
        known = kept if type(kept) is float and 0 < kept <= BUSIEST * _fastest[device] else 0.0
    if _fastest[device] > known:
        keep_measurement(path, as_json({"operations_per_second": _fastest[device], **described}, indent=1).encode())
    return max(known, _fastest[device])


def _product(device: Device) -> float:
    """Floating-point operations per second of a matrix product, by the fastest of several."""
    side = PRODUCT_SIDE[device.kind]
    factor = torch.ones(side, side, dtype=device.dtype, device=device.kind)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        factor @ factor
        if device.kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
