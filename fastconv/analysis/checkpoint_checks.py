"""Checks of a checkpoint before its network is used: somebody else may have written the file."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastconv.config.schema import Config
from fastconv.data.own_images import LARGEST_SIDE
from fastconv.data.split_record import FILE, SplitRecord
from fastconv.models import blueprint
from fastconv.models.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE, TEMPERATURE
from fastconv.models.weights import DIGEST, weights_digest
from fastconv.runs.results import FINISHED, Results
from fastconv.system.errors import InputError

# Classes that a checkpoint may claim at most.
MOST_CLASSES = 100_000
# The smallest deviation of pixels: one level more in one of 10^18 pixels.
LEAST_STD = 1e-12


def require_own(path: Path, checkpoint: dict[str, Any], results: Results | None) -> None:
    """Raise InputError if a checkpoint is damaged, or holds other weights than those that the results are of.

    Runs of earlier versions have no digest; of these only the steps are compared, once they are finished.
    """
    digest, step = weights_digest(checkpoint["state_dict"]), checkpoint.get("global_step")
    if not isinstance(step, int | None):
        raise InputError(f"{path} is damaged: its step is no number. Train the network anew")
    if checkpoint.get(DIGEST) not in (None, digest):
        raise InputError(f"{path} is damaged: its weights are not those that were written. Train the network anew")
    if results is None or results.stop_reason not in FINISHED:
        return
    same_step = results.weights_digest is not None or None in (step, results.steps) or step == results.steps
    same_temperature = results.temperature == checkpoint.get(TEMPERATURE)
    if same_step and same_temperature and results.weights_digest in (None, digest):
        return
    raise InputError(
        f"{path} (step {step}) does not belong to results.json (step {results.steps}): the network was not saved, or"
        " one of the two files was replaced. Restore the run's own files, or train again"
    )


def require_possible(
    shape: Sequence[Any],
    classes: Sequence[Any],
    mean: Sequence[Any],
    std: Sequence[Any],
    state: Mapping[str, Any],
    temperature: Any,
) -> None:
    """Raise ValueError for claims of a checkpoint that no run makes, whatever its network is."""
    numbers = (*mean, *std)
    if not (
        len(shape) == 3
        and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape)
        and shape[2] in (1, 3)
        and 2 <= len(classes) <= MOST_CLASSES
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes)
        and len(mean) == len(std) == shape[2]
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        and all(_is_whole(value) for value in state.values())
        and (temperature is None or (type(temperature) is float and MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE))
    ):
        raise ValueError


def require_numbers(
    mean: Sequence[float], std: Sequence[float], state: Mapping[str, torch.Tensor], may_be_infinite: bool
) -> None:
    """Raise InputError for a network whose results would not be numbers. Pixels are scaled to [0, 1].

    Args:
        may_be_infinite: whether it is a user's own, whose buffers may hold infinities, as the mask of an attention.
    """
    if any(not 0 <= number <= 1 for number in mean) or any(not LEAST_STD <= number <= 1 for number in std):
        raise InputError("its mean or standard deviation of pixels is out of range")
    for name, value in state.items():
        is_wrong = torch.isnan(value) if may_be_infinite else ~torch.isfinite(value)
        if value.is_floating_point() and is_wrong.any():
            raise InputError(f"its weights {name[:100]} are not all finite numbers")


def require_same_shape(path: Path, shape: tuple[int, ...], config: Config) -> None:
    """Raise InputError for a checkpoint of other images than the files beside it say, which could fill the memory."""
    dataset = config.dataset
    others: dict[str, tuple[int, ...]] = {}
    if dataset.image_size is not None and dataset.source != "builtin" and dataset._target_ is None:
        others["config.yaml"] = (dataset.image_size, dataset.image_size, shape[2])
    with contextlib.suppress(InputError):  # a damaged record is told by the commands that need it
        if record := SplitRecord.read(path.parent):
            others[FILE] = record.shape
    for name, other in others.items():
        if other != shape:
            ours, theirs = ("x".join(map(str, each)) for each in (shape, other))
            raise InputError(
                f"{path} is for images of {ours}, but {name} beside it for {theirs}: restore the run's own files"
            )


def _is_whole(value: Any) -> bool:
    """Whether a tensor has memory of its own for every element, so that it is not larger than the file."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def fits(
    state: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...], classes: Sequence[str], settings: Any
) -> bool:
    """Whether weights are those of a network of this package, found out without memory for the network."""
    if any(isinstance(value, list) and len(value) > len(state) for value in settings.values()):
        return False
    try:
        expected = blueprint(name, shape[2], len(classes), **settings).state_dict()
    except (KeyError, TypeError, ValueError, RuntimeError):
        return False
    return {key: value.shape for key, value in expected.items()} == {key: value.shape for key, value in state.items()}
