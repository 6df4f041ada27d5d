"""The settings of a run: as YAML, and as its hyperparameters."""

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fastconv.config.places import from_anywhere
from fastconv.config.schema import Config
from fastconv.runs.hparams import hparams_of
from fastconv.system.urls import redact


def as_yaml(config: Config) -> str:
    """A run's whole configuration as YAML, as its folder stores it: absolute paths, URLs without their secrets."""
    return settings_as_yaml({**from_anywhere(_nested(config)), "resume": None})


def settings_as_yaml(settings: dict[str, Any]) -> str:
    """Nested settings as YAML, to be stored: URLs without their secrets."""
    return OmegaConf.to_yaml(OmegaConf.create(redact(settings)))


def hparams(config: Any) -> dict[str, Any]:
    """All settings that decide what a run computes, by key, such as `optimizer.max_lr`."""
    return hparams_of(_nested(config))


def located(config: Any) -> dict[str, Any]:
    """The hyperparameters with absolute paths, as a run's folder has them; those of earlier versions were as typed."""
    return hparams_of(from_anywhere(_nested(config)))


def _nested(config: Any) -> dict[str, Any]:
    """A run's settings as nested dictionaries, with the budget that it was given."""
    nested: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else dataclasses.asdict(config)
    return {**nested, "budget": nested["budget"].get("given", nested["budget"])} if "budget" in nested else nested
