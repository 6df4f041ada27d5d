"""Whether to begin with a pretrained network: a trial on a user's own images, and the settings that go with it.

The trial asks how well a linear probe of the frozen network does, and compares it with a network from scratch, that of
the flip-invariance test. Both learn for about as long, and are scored on held-out training images.
"""

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastconv.budget.autotune.flip_test import FlipAccuracy
from fastconv.budget.autotune.linear_probe import LinearProbe, probe_features
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.bounds import machine_of
from fastconv.budget.forecast import scored_images
from fastconv.budget.hardware import Device
from fastconv.budget.pacing import PACING
from fastconv.config.overrides import compose
from fastconv.config.quoting import key_of
from fastconv.config.schema import Config
from fastconv.config.typed_config import typed
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.models.configs import Pretrained
from fastconv.system.distributed import from_first_rank
from fastconv.system.documents import read_json, record_of
from fastconv.system.errors import InputError, reason
from fastconv.system.files import keep_measurement
from fastconv.system.json_text import as_json

# Overrides that choose between networks, and are not of the settings that go with one of them.
CHOOSING = ("experiment", "autotune", "pretrained", "model")


@dataclass(frozen=True)
class Considered:
    """The outcome: the config of a run that begins with the pretrained network, or None to train from scratch.

    `reason` is a line for the plan, None where nothing was considered; `seconds` is the time that the trial had.
    """

    config: Config | None = None
    reason: str | None = None
    seconds: float = 0.0


def consider(
    config: Config,
    open_choices: list[str],
    overrides: list[str],
    data: Splits,
    device: Device,
    cache: Path,
    flips: Callable[[float], FlipAccuracy | None],
    settings: Autotune = AUTOTUNE,
) -> Considered:
    """Try the pretrained network of `config.pretrained`, and decide whether to train it or one from scratch.

    Only where the network is open and the images are a user's own; not where an optimizer is set, which would be for
    one of the two alone. Of several ranks the first one tries.

    Args:
        open_choices: what autotune chooses, of the keys of `fastconv.config.schema.CHOICES`.
        overrides: the command line's, which stay.
        data: the images of the run.
        cache: folder in which the result is kept.
        flips: runs the flip-invariance test in the seconds given, or returns None if they are too short.

    Raises InputError for a given file of weights that cannot be read or does not fit.
    """
    began, train, budget = time.perf_counter(), data.train, config.budget.seconds or 0.0
    if "model" not in open_choices or config.pretrained.trial == "never" or train.hashes is None:
        return Considered()
    keys = list(map(key_of, overrides))
    if set_key := next((key for key in keys if key.partition(".")[0] == "optimizer"), None):
        return Considered(reason=f"from scratch, as {set_key} is set, which is for such a network")
    seconds = settings.pretrained_share * budget
    if seconds < settings.pretrained_min_seconds or train.side < settings.pretrained_min_side:
        why = "the budget is too short for a trial" if seconds < settings.pretrained_min_seconds else "images are small"
        return Considered(reason=f"from scratch, as {why}")
    model = Pretrained(backbone=config.pretrained.backbone, weights=config.pretrained.weights, mode="head")
    found = from_first_rank("pretrained", lambda: _tried(model, train, device, cache, began + seconds, settings))
    if "obstacle" in found:
        return Considered(reason=f"from scratch, as {found['obstacle']}")
    name, probe = found["name"], record_of(LinearProbe, found["probe"])
    scratch = flips(settings.flip_test_share * budget)
    if scratch is None:
        return Considered(reason="from scratch, as the budget is too short for a trial")
    line = (
        f"a linear classifier on the features of {name} classifies {probe.accuracy:.1%} of {probe.images:,} held-out"
        f" training images correctly (fitted to {probe.learned:,}, in {probe.seconds:.1f} s), a network from scratch"
        f" {scratch.plain:.1%}"
    )
    if not pays(probe, scratch, settings):
        reason = f"from scratch: {line}, and will learn more in the rest of the time"
        return Considered(reason=reason, seconds=seconds)
    scored = scored_images(config, len(data.holdout), len(data.test))
    epoch_seconds = PACING.training_factor * len(train) * probe.image_seconds
    epochs = (budget - scored * probe.image_seconds) / epoch_seconds
    mode = "finetune" if epochs >= settings.finetune_min_epochs else "head"
    flip = None
    if "flip" in open_choices and scratch.is_evident(settings):
        flip = 0.5 if scratch.same_class(settings) else 0.0
    chosen = with_pretrained(config, overrides, dataclasses.replace(model, mode=mode), len(train), flip)
    return Considered(chosen, f"{line}. pretrained.trial=never trains from scratch")


def pays(probe: LinearProbe, scratch: FlipAccuracy, settings: Autotune = AUTOTUNE) -> bool:
    """Whether the pretrained network makes so few errors that it will make fewer in the end too, beyond chance.

    Chance by the 95 % interval of Agresti & Caffo (2000) for the difference of two shares.
    """
    wrong, other = 1 - probe.accuracy, 1 - scratch.plain
    if wrong > settings.pretrained_error_ratio * other:
        return False
    shares = [(error * n + 1) / (n + 2) for error, n in ((wrong, probe.images), (other, scratch.images))]
    sizes = probe.images + 2, scratch.images + 2
    variance = sum(share * (1 - share) / n for share, n in zip(shares, sizes, strict=True))
    return shares[1] - shares[0] > 1.96 * math.sqrt(variance)


def with_pretrained(
    config: Config, overrides: list[str], model: Pretrained, images: int, flip: float | None = None
) -> Config:
    """A config of `experiment=best` with the network, and with the settings of `experiment=pretrained` wherever the
    command line does not set them.

    Args:
        images: number of training images, which a batch does not exceed.
        flip: probability of a flip; None for that of the data set.
    """
    kept = [each for each in overrides if key_of(each).partition(".")[0] not in CHOOSING]
    flips = [] if flip is None else [f"dataset.flip={flip:g}"]
    given = ["experiment=pretrained", *kept, *flips]
    recipe: Config = typed("train", compose("train", given), given)
    batch_size, micro_batch_size, devices = recipe.batch_size, recipe.micro_batch_size, config.trainer.world
    if batch_size > images:
        batch_size = images // devices * devices
        micro_batch_size = batch_size // devices
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, micro_batch_size=recipe.model.micro_batch_size),
        augment=recipe.augment,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        label_smoothing=recipe.label_smoothing,
        calibration_images=recipe.calibration_images,
        dataset=config.dataset if flip is None else dataclasses.replace(config.dataset, flip=flip),
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        autotune=[],  # nothing is open: a run that is resumed, too, has this network
    )


def _tried(
    model: Pretrained, train: ImageData, device: Device, cache: Path, deadline: float, settings: Autotune
) -> dict[str, Any]:
    """The result of the trial, as JSON holds it: the weights' name and a `LinearProbe`, or an `obstacle`."""
    began = time.perf_counter()
    from fastconv.models.pretrained_weights import read_weights, weights_name  # imports torchvision

    try:
        state, name = read_weights(model), weights_name(model)
        # The name of a file does not tell which weights are in it.
        values = {key: float(value.double().sum()) for key, value in state.items() if value.is_floating_point()}
        described = as_json([train.digest, name, values, machine_of(device)])  # its seconds are this machine's
        path = cache / f"pretrained-{hashlib.sha256(described.encode()).hexdigest()[:16]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            kept = record_of(LinearProbe, read_json(path))
            if 0 <= kept.accuracy <= 1 and kept.images > 0 and kept.image_seconds > 0:
                return {"name": name, "probe": dataclasses.asdict(kept)}
        probe = probe_features(train, model, state, device, deadline, settings)
    except InputError as error:
        if model.weights is not None:
            raise InputError(str(error).replace("model.weights=", "pretrained.weights=", 1)) from error
        return {"obstacle": str(error)}
    except MemoryError:
        raise
    except Exception as error:  # of a library: those of a network for images of 224 pixels only are of several kinds
        return {"obstacle": f"{model.backbone} fails on images of {train.side} pixels ({reason(error)[:200]})"}
    if probe is None:
        return {"obstacle": "the budget is too short for a trial"}
    probe = dataclasses.replace(probe, seconds=time.perf_counter() - began)
    keep_measurement(path, as_json(dataclasses.asdict(probe)).encode())
    return {"name": name, "probe": dataclasses.asdict(probe)}
