"""The jobs of a sweep, from the overrides of a command, and what cannot be a sweep."""

import itertools
from collections.abc import Iterable

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from fastconv.config.quoting import key_of
from fastconv.system.errors import InputError

# Settings of the sweeper that searched in version 0.1, and what they are called now.
OF_SWEEPER = {"hydra.sweeper.n_trials": "sweep.trials", "hydra.sweeper.sampler.seed": "sweep.seed"}


def split_jobs(overrides: list[Override]) -> Iterable[list[str]]:
    """Yield the overrides of each job of a sweep, in the order of Hydra's basic sweeper: the last key varies fastest.

    Raises InputError for an interval, because only a search can draw from it.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep():
            raise InputError(
                f"{override.input_line} is not possible: only a search draws from an interval; add sweep.trials=20"
            )
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    return (list(job) for job in itertools.product(*values.values()))


def require_one_experiment(values: DictConfig, job: list[str]) -> None:
    """Raise InputError for a job of a sweep over experiments whose own is a sweep too: its values would be left out."""
    if left := set(map(key_of, values.hydra.sweeper.get("params") or ())) - set(map(key_of, job)):
        experiment = next((text for text in job if key_of(text) == "experiment"), "a job")
        raise InputError(
            f"{experiment} is a sweep by itself, over {', '.join(sorted(left))}: start it by a command of its own, or"
            " give these too"
        )


def require_own_sweeper(override: Override) -> None:
    """Raise InputError for another sweeper of Hydra, and for the settings of the one that searched in version 0.1."""
    key, written = override.key_or_group, str(override.input_line).partition("=")[2]
    if key in OF_SWEEPER:
        raise InputError(f"unknown key {key}: it is {OF_SWEEPER[key]} now")
    if key == "hydra/sweeper" and written != "basic":
        raise InputError(f"hydra/sweeper={written} is not possible: leave it out, and search by sweep.trials=20")
