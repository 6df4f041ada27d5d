"""Hydra's overrides: read, composed to the dataclasses of the schema, and explained in a line where they are wrong."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastconv.config.store import CONF, SCHEMAS, options_with, register
from fastconv.config.sweeps import Sweep
from fastconv.system.errors import InputError, nearest

# What Hydra, its grammar and OmegaConf raise for input that they cannot use.
COMPOSING_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    AssertionError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
)

# Config groups that are not of a run, with the command they belong to.
GROUPS = {"method": "explain"}


def compose(config_name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The config of a command for some overrides, as Hydra composes it; `with_hydra` also its own settings."""
    register()
    running = GlobalHydra.instance().hydra  # Hydra composes for one command at a time: set that of a running one aside
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(config_name, overrides, return_hydra_config=with_hydra)
    finally:
        GlobalHydra.instance().hydra = running


def groups(config_name: str = "config") -> list[str]:
    """The config groups of a command, such as `dataset`: those of a run, or what another command has of its own.

    A command whose schema extends another's has the groups of that.
    """
    every = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    return [group for group in every if issubclass(SCHEMAS[config_name], SCHEMAS[GROUPS.get(group, "config")])]


def group_options(group: str) -> list[str]:
    """The options of a config group, such as the data sets."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, str]]:
    """(key, the section that holds it, its name there) of every value of a composed config."""
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and len(node):
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", config, name


def keys(config_name: str) -> list[str]:
    """Every key and group that can be set."""
    return groups(config_name) + [key for key, *_ in leaves(compose(config_name, []))]


def check_arguments(
    config_name: str, arguments: list[str], check: Callable[[Any], None], check_search: Callable[[Any], None]
) -> Sweep | None:
    """Raise InputError for what Hydra could not read, or would read as something else than was meant.

    All jobs of a sweep are composed and given to `check` before the first one starts: the last may be hours away. Those
    of a sweeper that looks for the best are not known; `check` and `check_search` get what is common to them.

    Returns the sweep that the arguments ask for; None for a single job, or one with configs of somebody else.
    """
    parser = get_args_parser()

    def refuse(message: str) -> None:  # argparse would print its usage and end with code 2
        raise InputError(f"{message}. --help shows what can be set")

    parser.error = refuse
    flags = parser.parse_args(arguments)
    overrides = [_parse(text) for text in flags.overrides]
    sweep = flags.multirun or any(override.key_or_group == "hydra.mode" for override in overrides)
    # An experiment may be a sweep by itself, with values and a sweeper of its own.
    settings = _hydra_settings(config_name, overrides) if sweep or _names_experiment(overrides) else None
    if settings is not None:
        sweep = sweep or settings.mode == RunMode.MULTIRUN
    if settings is not None and sweep:
        of_experiment = (settings.sweeper.get("params") or {}).items()
        both = [*(_parse(f"{key}={values}") for key, values in of_experiment), *overrides]
        overrides = list({override.key_or_group: override for override in both}.values())  # the last of a key counts
    for override in overrides:
        if not sweep and override.is_sweep_override():
            raise InputError(
                f"{override.input_line} has several values: add -m to run one after the other, or write a list as [a,b]"
            )
        if isinstance(override.value(), Glob):
            raise InputError(f"{override.input_line} is not possible: name the values, as {override.key_or_group}=a,b")
    if flags.config_dir or flags.config_path or flags.config_name:
        return None  # somebody else's configs, which Hydra alone knows
    if not sweep or settings is None or flags.cfg or flags.info:
        _check_options(config_name, overrides)
        return None
    searches = not settings.sweeper._target_.endswith(".BasicSweeper")  # which goes over values known in advance
    if searches:
        configs = [_checked_search(config_name, overrides, settings.sweeper.n_trials, check)]
        check_search(configs[0])
        configs *= settings.sweeper.n_trials
    else:
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        configs = [_checked(config_name, job, f"job {number}", check) for number, job in enumerate(jobs)]
        if not configs:
            raise InputError(f"the sweep {' '.join(flags.overrides)} has no values")
    return Sweep(config_name, tuple(flags.overrides), tuple(configs), Path(settings.sweep.dir), searches)


def _names_experiment(overrides: list[Override]) -> bool:
    return any(override.key_or_group == "experiment" and not override.is_sweep_override() for override in overrides)


def _hydra_settings(config_name: str, overrides: list[Override]) -> DictConfig | None:
    """Hydra's own settings for some overrides; None where they do not compose, which is explained elsewhere."""
    single = [override.input_line for override in overrides if not override.is_sweep_override()]
    try:
        return compose(config_name, single, with_hydra=True).hydra
    except COMPOSING_ERRORS:
        return None


def _checked(config_name: str, job: list[str], name: str, check: Callable[[Any], None]) -> Any:
    """The config of a job of a sweep. Raises InputError, naming the job, for one that cannot work."""
    try:
        _check_options(config_name, [_parse(text) for text in job])
        settings = [text for text in job if not text.startswith("hydra")]
        config = typed(config_name, compose(config_name, settings), settings)
        check(config)
    except COMPOSING_ERRORS as error:
        raise InputError(f"{name}: {explain(error, config_name, job)}") from error
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return config


def _checked_search(config_name: str, overrides: list[Override], trials: int, check: Callable[[Any], None]) -> Any:
    """What is common to the trials of a search. Raises InputError if that, or one of the values by itself, cannot work.

    Of an interval the two ends are tried.
    """
    if trials < 1:
        raise InputError(f"hydra.sweeper.n_trials={trials} is not possible: give 1 or more")
    fixed = [override.input_line for override in overrides if not override.is_sweep_override()]
    for override in overrides:
        values: Iterable[Any] = ()
        if override.is_interval_sweep():
            values = override.value().start, override.value().end
        elif override.is_sweep_override():
            values = override.sweep_string_iterator()
        for value in values:
            text = f"{override.key_or_group}={value}"
            _checked(config_name, [*fixed, text], text, check)
    return _checked(config_name, fixed, "the search", check)


def _parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.key_or_group:
            raise ValueError
    except COMPOSING_ERRORS as error:
        raise InputError(f"cannot read the override {text}: write key=value, and quote special characters") from error
    if override.is_delete():
        raise InputError(f"{text} is not possible: a run needs every key. Give it a value with key=value")
    return override


def _check_options(config_name: str, overrides: list[Override]) -> None:
    """Hydra would also take a schema of ours, a list of options, or a file of another group."""
    for override in overrides:
        group, option = override.key_or_group, override.value()
        if group not in groups(config_name) or isinstance(option, dict):
            continue
        several = group in GROUPS and isinstance(option, list)
        words = [str(each) for each in option] if several else [override.get_value_element_as_str() or "''"]
        options = group_options(group)
        for word in words:
            if word not in options:
                raise InputError(f"unknown {group} {word}{nearest(word, options)} Choose from: {', '.join(options)}")


def typed(config_name: str, config: DictConfig, overrides: list[str]) -> Any:
    """The dataclasses of a composed config. Raises InputError for keys, values or types that the schema has not."""
    schema = SCHEMAS[config_name]
    if OmegaConf.get_type(config) is not schema:
        raise InputError(f"this is not a config of this command: its defaults must begin with that of {config_name}")
    try:
        for key, section, name in leaves(config):
            kind, node = OmegaConf.get_type(section), section._get_node(name)
            if name not in getattr(kind, "__dataclass_fields__", {}) and kind is not dict:
                raise InputError(unknown_key(key, config_name))
            if node._is_missing():
                raise InputError(f"{key} has no value: give it one with {key}=value")
            if isinstance(node, DictConfig) and not _is_free(section, name):  # ${...}, which may be of any type
                raise InputError(f"{key} cannot be set as a whole: set its keys")
        for text in overrides:
            key, _, value = text.lstrip("+").partition("=")
            # OmegaConf takes any whole number for a yes.
            if re.fullmatch(r"[+-]?\d+", value) and value not in "01" and OmegaConf.select(config, key) is True:
                raise InputError(f"{key}: Value '{value}' is not a valid bool")
        return OmegaConf.to_object(config)
    except COMPOSING_ERRORS as error:
        raise InputError(explain(error, config_name, overrides)) from error


def _is_free(section: DictConfig, name: str) -> bool:
    """Whether a key holds whatever keys a user gives it, and now none."""
    fields = getattr(OmegaConf.get_type(section), "__dataclass_fields__", {})
    return name in fields and getattr(fields[name].type, "__origin__", None) is dict


def task_overrides() -> list[str]:
    """The overrides of the running command as they were written: Hydra's config would resolve a `${key}` in them."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)


def unknown_key(key: str, config_name: str) -> str:
    """One line for a key that the schema has not, with the nearest that it has."""
    group, _, name = key.partition(".")
    owners = [f"{group}={option}" for option in options_with(group, name)]
    if owners:
        return f"{key} is a key of {' and '.join(owners)} alone: choose that too, or leave it out"
    return f"unknown key {key}{nearest(key, keys(config_name))} --help lists all keys"


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """One line for an error of Hydra's or OmegaConf's, with the nearest right name."""
    text = str(error)
    both = f"{text}\n{error.__cause__ or error.__context__ or ''}"
    full = re.search(r"full_key: (\S+)", both)
    key = full[1] if full else ""
    if named := re.findall(r"Could not override '(.+?)'|Key '(.+?)' not in", both):
        return unknown_key(max(key, *itertools.chain(*named), key=len), config_name)
    if match := re.search(r"already at '(.+?)'|Multiple values for (\S+)\.|not supported: '\+\+(\w+)=", text):
        return f"{match[1] or match[2] or match[3]} exists already: write it without the +"
    if match := re.search(r"Could not find '(?:(.+)/)?(.+)'", text):
        return f"unknown {match[1] or 'config'} {match[2]}"
    if "is not Optional" in both:
        return f"{key} cannot be null"
    if re.search(r"not a subclass of|Cannot merge|not a ListConfig", both):
        node = OmegaConf.select(compose(config_name, []), key)
        if isinstance(node, DictConfig):
            return f"{key} cannot be set as a whole: set its keys, such as {key}.{next(iter(node))}=value"
        if "ListConfig" in both:
            return f"{key} is a list: write {key}=[a,b]"
    if value := re.search(r"Value .*|Invalid .*|Cannot convert .*|.*not a valid.*|.*nterpolation.*", both):
        return f"{key or 'config'}: {value[0].strip()}"
    reason = text.split("Config search path")[0].strip()
    if reason.startswith("Error merging override"):
        reason = str(error.__cause__ or reason).split("\n")[0]
    return f"cannot use {' '.join(overrides)}: {reason or type(error).__name__}"
