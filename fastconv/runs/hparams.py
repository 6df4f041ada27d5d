"""Hyperparameters: all settings that decide what a run computes, flat, by key, such as `optimizer.max_lr`."""

import re
from typing import Any

# Settings of where things lie or what to do, which change nothing that a run computes.
LOCATIONS = ("data", "outputs", "figures", "resume", "dry_run", "trust", "verify", "prune", "checkpoint", "sweep",
             "logger", "stream.root", "stream.cache", "stream.max_gb", "stream.verify")  # fmt: skip
# Lists of what a user adds. Empty ones are left out, so that runs of versions without them are of the same kind.
ADDED = ("callbacks", "extra")


def hparams_of(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The hyperparameters in a run's settings, which are nested."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(hparams_of(value, f"{prefix}{name}."))
        elif not is_location(f"{prefix}{name}") and not (name in ADDED and not value):
            found[f"{prefix}{name}"] = value
    return found


def is_location(key: str) -> bool:
    """Whether a setting is no hyperparameter."""
    return any(key == place or key.startswith(f"{place}.") for place in LOCATIONS)


def is_seed(key: str) -> bool:
    """Whether a setting is a seed of a run, which repetitions of a run differ in."""
    return key.rpartition(".")[2] == "seed"


def without_seeds(hparams: dict[str, Any]) -> dict[str, Any]:
    """What runs of one kind have in common."""
    return {key: value for key, value in hparams.items() if not is_seed(key)}


def is_augmented(hparams: dict[str, Any]) -> bool:
    """Whether the training images are changed at all, by our augmentations or by a user's own."""
    amounts = ("crop.padding", "cutout.size", "color_jitter.brightness", "color_jitter.contrast", "extra")
    return (
        any(hparams.get(f"augment.{key}") for key in amounts)
        or any(value for key, value in hparams.items() if re.fullmatch(r"augment\.\w+\.probability", key))
        or hparams.get("augment.auto", "none") != "none"
    )
