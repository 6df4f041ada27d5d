"""Turns a composed config into the dataclasses of the schema, and explains in one line what does not fit them."""

import dataclasses
import re
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException

from fastconv.config.hydra_keys import unknown_hydra_key
from fastconv.config.overrides import COMPOSING_ERRORS, compose, groups, keys, leaves, parse_override, section_of
from fastconv.config.store import SCHEMAS, complete, options_with
from fastconv.config.suggestions import suggestion
from fastconv.config.text import is_path_key
from fastconv.runs import legacy
from fastconv.system.errors import InputError, nearest
from fastconv.system.settings import NOT_PLAIN, YAML_WORDS


def typed(config_name: str, config: DictConfig, overrides: list[str]) -> Any:
    """Convert a composed config to its dataclasses. Raises InputError for keys, values or types outside the schema."""
    schema = SCHEMAS[config_name]
    if OmegaConf.get_type(config) is not schema:
        raise InputError(f"this is not a config of this command: its defaults must begin with that of {config_name}")
    try:
        config = complete(config)
        for key, section, name in leaves(config):
            kind = OmegaConf.get_type(section)
            if kind is not dict and name not in _field_types(kind):
                raise InputError(unknown_key(key, config_name))
            if OmegaConf.is_missing(section, name):
                raise InputError(f"{key} has no value: give it one with {key}=value")
            if _must_be_section(section, name):
                raise InputError(f"{key} cannot be set as a whole: set its keys")
        for text in overrides:
            key, _, value = text.lstrip("+").partition("=")
            # OmegaConf accepts any whole number as a bool.
            if re.fullmatch(r"[+-]?\d+", value) and value not in "01" and OmegaConf.select(config, key) is True:
                raise InputError(f"{key}: Value '{value}' is not a valid bool")
        return OmegaConf.to_object(config)
    except COMPOSING_ERRORS as error:
        raise InputError(explain(error, config_name, overrides)) from error


def _must_be_section(section: DictConfig, name: str) -> bool:
    """Whether this name in a section must be a section itself."""
    kind = _field_types(OmegaConf.get_type(section)).get(name)
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def unknown_key(key: str, config_name: str) -> str:
    """One line about a key that the schema lacks, with its name of today or the nearest key that there is."""
    if key in legacy.SETTINGS:
        return f"unknown key {key}: it is {legacy.SETTINGS[key]} now. --help lists all keys"
    group, _, name = key.partition(".")
    if owners := [f"{group}={option}" for option in options_with(group, name)]:
        return f"{key} is a key of {' and '.join(owners)} alone: choose that too, or leave it out"
    return f"unknown key {key}{suggestion(key, keys(config_name))} --help lists all keys"


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Explain an error of Hydra or OmegaConf in one line, with the nearest valid name.

    The overrides are compared with the schema, so the line does not depend on the wording of Hydra's errors.
    """
    if line := _wrong_override(config_name, overrides):
        return line
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.removesuffix(".yaml").rpartition("/")
        options = sorted(error.options or ())
        known = f"{nearest(option, options)} Choose from: {', '.join(options)}" if options else ""
        return f"unknown {group or 'config'} {option}{known}"
    cause = error
    while not isinstance(cause, OmegaConfBaseException) and (below := cause.__cause__ or cause.__context__):
        if not isinstance(below, Exception):
            break
        cause = below
    if isinstance(cause, OmegaConfBaseException):
        line = unknown_hydra_key(cause, overrides, lambda chosen: compose(config_name, chosen, with_hydra=True))
        return line or _of_file(str(cause.full_key or "config"), _first_line(cause))
    return f"cannot use {' '.join(overrides)}: {_first_line(error)}"


def _of_file(key: str, problem: str) -> str:
    """One line about what does not fit in a config file, and the slip of its author behind that."""
    section, _, name = key.rpartition(".")
    if name in YAML_WORDS:
        word = YAML_WORDS[name]
        return f"{key}: YAML reads {word} without quotes as {name.lower()}: write '{word}' in {section or 'the file'}"
    if key == "experiment":
        problem += "; the file of an experiment begins with the line # @package _global_"
    return f"{key}: {problem}"


def _wrong_override(config_name: str, overrides: list[str]) -> str | None:
    """One line about the first override that does not fit the schema; None if each one fits by itself."""
    parsed = [parse_override(text) for text in overrides if not text.startswith("-")]
    chosen = [each for each in parsed if each.key_or_group in groups(config_name) and not each.is_sweep_override()]
    for override in chosen:
        if override.is_add() or override.is_force_add():
            return f"{override.key_or_group} exists already: write it without the +"
    try:
        config = compose(config_name, [str(override.input_line) for override in chosen if override.package is None])
    except COMPOSING_ERRORS:
        config = compose(config_name, [])
    for override in parsed:
        if (override in chosen and override.package is None) or override.key_or_group.startswith("hydra"):
            continue
        if line := _misfit(config_name, config, override):
            return line
    return None


def _misfit(config_name: str, config: DictConfig, override: Override) -> str | None:
    """One line about an override that does not fit a composed config; None if it fits, and then it is applied."""
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        return unknown_key(f"{key}@{override.package}", config_name)
    section, name = _holder(config, key)
    if section is None:
        return unknown_key(key, config_name)
    unset = OmegaConf.is_missing(section, name) or OmegaConf.is_interpolation(section, name)
    there = None if unset else section.get(name)
    if override.is_add() and there is not None and not isinstance(value, list | dict):
        return f"{key} exists already: write it without the +"
    if override.is_sweep_override():
        return None
    try:
        OmegaConf.update(config, key, value, force_add=True)
    except COMPOSING_ERRORS as error:
        if value is None:
            return f"{key} cannot be null"
        if isinstance(there, DictConfig):
            return f"{key} cannot be set as a whole: set its keys, such as {key}.{next(iter(there))!s}=value"
        if isinstance(there, ListConfig) and not isinstance(value, list):
            return f"{key} is a list: write {key}=[a,b]"
        # For an entry of a list OmegaConf names only its number.
        at = str(getattr(error, "full_key", None) or key)
        return f"{at if at.startswith(key) else f'{key}[{at}]'}: {_first_line(error)}"
    return None


def _holder(config: DictConfig, key: str) -> tuple[DictConfig | None, str]:
    """The section of a composed config that holds a key (None for an unknown key), and the key's name in it."""
    *parents, name = key.split(".")
    section: DictConfig | None = config
    for parent in parents:
        section = section_of(section, parent) if section is not None and parent in section else None
    if section is None:
        return None, name
    free = OmegaConf.get_type(section) is dict
    return (section if free or name in _field_types(OmegaConf.get_type(section)) else None), name


def _field_types(schema: type | None) -> dict[str, Any]:
    """The types of the fields of a dataclass, by name; empty for anything else."""
    if schema is None or not dataclasses.is_dataclass(schema):
        return {}
    return {field.name: field.type for field in dataclasses.fields(schema)}


def _first_line(error: Exception) -> str:
    """The first line of an error's message, without the types of Python in it."""
    text = (getattr(error, "msg", None) or str(error)).strip()
    line = (text or type(error).__name__).splitlines()[0]
    if isinstance(error, InterpolationKeyError | GrammarParseError) and is_path_key(str(error.full_key)):
        line += f"; {NOT_PLAIN}"
    return re.sub(r" of type '\w+' is incompatible with type hint '.*'", " is of a kind that it cannot have", line)
