"""Hyperparameters: all settings that decide what a run computes, as a flat dict by key (`optimizer.max_lr`)."""

import re
from typing import Any

from fastconv.system.urls import redact

# Settings that say what a run is called, where files are, what to do with them, or when its machine is gone. They do
# not change what it computes.
LOCATIONS = ("name", "tags", "data", "outputs", "figures", "resume", "dry_run", "trust", "verify", "prune",
             "part", "parts", "checkpoint", "budget.until", "sweep", "logger", "stream.root", "stream.cache",
             "stream.max_gb", "stream.verify")  # fmt: skip
# Lists of a user's additions. Empty ones are left out, so that runs of versions without them compare as equal.
ADDED = ("callbacks", "extra")
# Settings whose default is left out, for the same reason.
LATER = {
    "trainer.winograd": "auto",
    "trainer.graph": "auto",
    "trainer.nodes": None,
    "objective": "accuracy",
    "dataset.image_column": None,
    "dataset.label_column": None,
    "dataset.resize": "crop",
    "model.feature_share": 0.95,
    "pretrained.trial": "auto",
    "pretrained.backbone": "resnet18",
    "pretrained.weights": None,
}


def hparams_of(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The hyperparameters, flat, of a run's nested settings; URLs without their secrets."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(hparams_of(value, f"{prefix}{name}."))
        elif not is_location(f"{prefix}{name}") and not _is_as_before(f"{prefix}{name}", value):
            found[f"{prefix}{name}"] = redact(value)
    return found


def _is_as_before(key: str, value: Any) -> bool:
    """Whether a setting leaves a run as it was in versions without the setting."""
    return (key.rpartition(".")[2] in ADDED and not value) or (key in LATER and value == LATER[key])


def is_location(key: str) -> bool:
    """Whether a setting is not a hyperparameter."""
    return any(key == place or key.startswith(f"{place}.") for place in LOCATIONS)


def is_seed(key: str) -> bool:
    """Whether a setting is a seed, in which repetitions of a run differ."""
    return key.rpartition(".")[2] == "seed"


def without_seeds(hparams: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that repetitions of a run share."""
    return {key: value for key, value in hparams.items() if not is_seed(key)}


def is_augmented(hparams: dict[str, Any]) -> bool:
    """Whether the training images are augmented at all, by fastconv's or by a user's own transforms."""
    amounts = ("crop.padding", "cutout.size", "color_jitter.brightness", "color_jitter.contrast", "extra")
    return (
        any(hparams.get(f"augment.{key}") for key in amounts)
        or any(value for key, value in hparams.items() if re.fullmatch(r"augment\.\w+\.probability", key))
        or hparams.get("augment.auto", "none") != "none"
    )
