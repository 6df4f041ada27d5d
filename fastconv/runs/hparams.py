"""A recipe: all settings that decide what a run computes, flat, by key, such as `optimizer.max_lr`."""

from typing import Any

# What says where things lie or what to do, and not what a run computes.
LOCATIONS = ("data", "outputs", "figures", "resume", "dry_run", "trust", "verify", "prune", "checkpoint", "sweep",
          "stream.root", "stream.cache", "stream.max_gb", "stream.verify")  # fmt: skip


def hparams_of(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The recipe in a run's settings, which are nested."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(hparams_of(value, f"{prefix}{name}."))
        elif not is_location(f"{prefix}{name}"):
            found[f"{prefix}{name}"] = value
    return found


def is_location(key: str) -> bool:
    """Whether a setting is no part of the recipe."""
    return any(key == place or key.startswith(f"{place}.") for place in LOCATIONS)


def is_seed(key: str) -> bool:
    """Whether a setting is a seed of a run: what runs of one kind differ in."""
    return key.rpartition(".")[2] == "seed"


def without_seeds(hparams: dict[str, Any]) -> dict[str, Any]:
    """What runs of one kind have in common."""
    return {key: value for key, value in hparams.items() if not is_seed(key)}


def is_augmented(hparams: dict[str, Any]) -> bool:
    """Whether the training images are changed at all."""
    amounts = ("crop.padding", "flip.probability", "cutout.size", "color_jitter.brightness", "color_jitter.contrast")
    return any(hparams.get(f"augment.{key}") for key in amounts) or hparams.get("augment.auto", "none") != "none"
