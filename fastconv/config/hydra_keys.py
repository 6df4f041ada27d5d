"""Suggests what a mistyped key of Hydra's own settings was meant to be."""

import contextlib
import difflib
from collections.abc import Callable, Iterator

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

# Hydra's groups.
GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging", "hydra/output", "hydra/help")


def unknown_hydra_key(
    error: OmegaConfBaseException, overrides: list[str], compose: Callable[[list[str]], DictConfig]
) -> str | None:
    """One line about a key that Hydra's settings lack; None if that is not the error.

    Args:
        overrides: of the command.
        compose: composes the config with Hydra's settings for some of them; raises an exception if they do not fit.
    """
    key = str(error.full_key or "")
    if not isinstance(error, ConfigKeyError | ConfigAttributeError) or not key.startswith(("hydra.", "hydra/")):
        return None
    known = list(GROUPS)
    chosen = [each for each in overrides if each.startswith(GROUPS) and "," not in each]
    with contextlib.suppress(Exception):  # whatever else is wrong: the groups can be suggested all the same
        settings = compose(chosen)
        above = OmegaConf.select(settings, key.rpartition(".")[0])
        if isinstance(above, DictConfig) and OmegaConf.get_type(above) is dict:  # it takes any key
            return f"unknown key {key}: to add it, write +{key}=..."
        known += _keys(settings.hydra, "hydra.")
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return f"unknown key {key}{f'; did you mean {close[0]}?' if close else ': Hydra has no such setting.'}"


def _keys(config: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, config):
        yield f"{prefix}{name}"
        single = OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name)
        if not single and isinstance(section := config[name], DictConfig):
            yield from _keys(section, f"{prefix}{name}.")
