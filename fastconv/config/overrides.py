"""Reads Hydra's overrides, and composes the config of a command for them."""

import copy
import re
import shlex
from collections.abc import Iterator

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fastconv.config.custom import own_options, with_config_folders, with_custom_groups
from fastconv.config.quoting import to_paste
from fastconv.config.store import CONF, SCHEMAS, register, registered_options
from fastconv.config.text import is_path_key
from fastconv.system.errors import InputError, nearest
from fastconv.system.settings import INTERPOLATION, NOT_PLAIN

# The exceptions that Hydra, its grammar and OmegaConf raise for input that they cannot use.
COMPOSING_ERRORS = (HydraException, OmegaConfBaseException, AssertionError, ValueError, TypeError, ArithmeticError,
                    RecursionError)  # fmt: skip

# Config groups that do not belong to a run, with the command they belong to.
GROUPS = {"method": "explain"}
# Groups in which several options can be chosen at once.
SEVERAL = ("logger", "method")


def compose(config_name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """Compose the config of a command for some overrides, as Hydra does; `with_hydra` includes Hydra's own settings."""
    register()
    overrides = with_config_folders(with_custom_groups(overrides))
    running = GlobalHydra.instance().hydra  # Hydra composes for one command at a time: set the running one aside
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(config_name, overrides, return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = running


def needs_hydra(settings: DictConfig) -> bool:
    """Whether Hydra's own settings ask for something at a job's start or end that only `hydra.main` does."""
    return any((settings.callbacks, settings.job.env_set, settings.job.chdir, settings.output_subdir))


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of a composed config that lacks Hydra's own settings."""
    copied = copy.copy(config)
    with open_dict(copied):
        del copied["hydra"]
    return copied


def groups(config_name: str = "train") -> list[str]:
    """The config groups of a command, such as `dataset`: those of a run, or another command's own groups.

    A command whose schema extends another one also has that one's groups.
    """
    every = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    return [group for group in every if issubclass(SCHEMAS[config_name], SCHEMAS[GROUPS.get(group, "train")])]


def group_options(group: str) -> list[str]:
    """The options of a config group, such as the data sets."""
    shipped = (path.stem for path in (CONF / group).glob("*.yaml"))
    return sorted({*shipped, *registered_options(group), *own_options(group)})


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, str]]:
    """Yield (key, the section that holds it, its name there) for every value of a composed config."""
    for name in map(str, config):
        section = section_of(config, name)
        if section:
            yield from leaves(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", config, name


def section_of(config: DictConfig, name: str) -> DictConfig | None:
    """The section with this name; None for a single value, and for one that is missing or an interpolation ${...}."""
    if OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
        return None
    return value if isinstance(value := config[name], DictConfig) else None


def keys(config_name: str) -> list[str]:
    """All keys and groups that can be set."""
    return groups(config_name) + [key for key, *_ in leaves(compose(config_name, []))]


def parse_override(text: str) -> Override:
    """Parse an override. Raises InputError for one that cannot be read or that deletes a key."""
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.key_or_group:
            raise ValueError
    except COMPOSING_ERRORS as error:
        raise InputError(f"cannot read the override {text}: {_how_to_write(text)}") from error
    if override.is_delete():
        raise InputError(f"{text} is not possible: a run needs every key. Give it a value with key=value")
    return override


def _how_to_write(text: str) -> str:
    """How to write an override that cannot be read, with the part of a command to paste where that is known."""
    key, equals, value = text.partition("=")
    if not equals:
        key, colon, value = text.partition(":")
        if colon and re.fullmatch(r"[\w.]+", key):
            return f"write key=value, as {shlex.quote(f'{key}={value.strip()}')}"
        named = [f"{group}={text}" for group in groups() if re.fullmatch(r"\w+", text) and text in group_options(group)]
        return f"write key=value, as {named[0]}" if named else "write key=value"
    if not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key.strip()):
        return "write key=value"
    if key != key.strip():
        return f"write key=value, without blanks around =, as {shlex.quote(f'{key.strip()}={value.strip()}')}"
    if value.count(INTERPOLATION) > value.count("}"):
        return f"write key=value, and close every ${{...}}; {NOT_PLAIN}"
    if INTERPOLATION in value and is_path_key(key.lstrip("+")):
        return f"{NOT_PLAIN}. Write an interpolation without quotes"
    return f"write key=value, and quote special characters for Hydra and for the shell, as {to_paste(key, value)}"


def check_options(config_name: str, overrides: list[Override]) -> None:
    """Raise InputError for an unknown option of a group.

    Hydra itself would also accept one of our schemas, a list of options, or a file of another group.
    """
    for override in overrides:
        group, option = override.key_or_group, override.value()
        if group not in groups(config_name) or isinstance(option, dict):
            continue
        if group in SEVERAL and isinstance(option, list):
            words = [str(each) for each in option]
        else:
            words = [override.get_value_element_as_str() or "''"]
        options = group_options(group)
        for word in words:
            if word not in options:
                raise InputError(f"unknown {group} {word}{nearest(word, options)} Choose from: {', '.join(options)}")


def task_overrides() -> list[str]:
    """The overrides of the running command as written. Hydra's config would resolve a `${key}` in them."""
    written = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(text) for text in written] if isinstance(written, list) else []
