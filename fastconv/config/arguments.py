"""Reads the arguments of a command: Hydra's flags, the overrides, and the jobs of the sweep that they ask for."""

import argparse
import importlib.metadata
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.types import Glob, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fastconv import __version__
from fastconv.config.custom import config_folder, with_custom_groups
from fastconv.config.overrides import (
    COMPOSING_ERRORS,
    check_options,
    compose,
    needs_hydra,
    parse_override,
    without_hydra,
)
from fastconv.config.search_space import Dimension, dimension
from fastconv.config.sweep_jobs import require_one_experiment, require_own_sweeper, split_jobs
from fastconv.config.sweeps import Sweep
from fastconv.config.text import as_typed
from fastconv.config.typed_config import explain, typed
from fastconv.system.errors import InputError
from fastconv.system.settings import check_local, check_plain

Check = Callable[[Any], object]

# Hydra would make the folders even of a URL.
HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir")
# Jobs up to which a sweep keeps the configs that were checked, of 0.9 MB each; Hydra composes those of a larger one.
KEPT = 100


@dataclass
class Arguments:
    """A parsed command line: the overrides as written, and the Hydra flags that change their meaning."""

    overrides: list[str]
    multirun: bool
    cfg: str | None
    info: str | None
    config_dir: str | None
    config_path: str | None
    config_name: str | None
    is_plain: bool
    """Whether there are overrides of the command's own keys alone, and no flag but `--config-dir`."""


# A setting that is written as a flag, and the settings behind it.
_FLAG = re.compile(r"-+([A-Za-z_][\w.]*)(?:(?:=| (?![\w.~+/]+=))(.*?))?(?: [\w.~+/]+=.*)?$", re.DOTALL)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # argparse would print its usage and end with code 2
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and (found := _FLAG.match(unknown)):
            setting = shlex.quote(f"{found[1]}={found[2] or 'VALUE'}")
            message += f": settings have no dashes, write {setting}"
        raise InputError(f"{message}. --help shows what can be set")


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Split a command line as Hydra 1.3 does, by its documented flags. Raises InputError for another flag."""
    parser = _Parser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for flags in (
        ("--help", "-h"),
        ("--hydra-help",),
        ("--resolve",),
        ("--run", "-r"),
        ("--multirun", "-m"),
        ("--shell-completion", "-sc"),
    ):
        parser.add_argument(*flags, action="store_true")
    for flags in (
        ("--package", "-p"),
        ("--config-path", "-cp"),
        ("--config-name", "-cn"),
        ("--config-dir", "-cd"),
        ("--experimental-rerun",),
    ):
        parser.add_argument(*flags)
    hydra = importlib.metadata.version("hydra-core")
    parser.add_argument("--version", action="version", version=f"fastconv {__version__} (Hydra {hydra})")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    information = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=information)
    found = vars(parser.parse_intermixed_args(arguments))  # as in dataset=digits -m seed=0,1
    asked = [value for name, value in found.items() if name not in ("overrides", "config_dir")]
    is_plain = not any(asked) and not any(text.lstrip("+").startswith("hydra") for text in found["overrides"])
    fields = [name for name in Arguments.__dataclass_fields__ if name in found]
    return Arguments(**{name: found[name] for name in fields}, is_plain=is_plain)


def prepare_arguments(config_name: str, arguments: Sequence[str]) -> list[str]:
    """A command line as Hydra is to read it: texts as they were typed, each key once, components with their group.
    Settings come first, since Hydra reads them side by side, then flags.

    The last value of a key counts, as for Hydra. Raises InputError for arguments that cannot be read.
    """
    asked = read_arguments(arguments)
    overrides = with_custom_groups(asked.overrides)

    def in_sweep() -> bool:
        deciding = [each for each in overrides if each.partition("=")[0] in ("experiment", "hydra.mode")]
        values = _with_hydra(config_name, [parse_override(each) for each in deciding]) if deciding else None
        return asked.multirun or (values is not None and values.hydra.mode == RunMode.MULTIRUN)

    with config_folder(asked.config_dir):
        overrides = last_of_each(as_typed(config_name, overrides, in_sweep))
    if not overrides:
        return list(arguments)
    flags, left = [], list(asked.overrides)
    for text in arguments:
        if left and text == left[0]:
            left.pop(0)
        else:
            flags.append(text)
    return [*overrides, *flags]


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """Some overrides without those that a later one of the same key replaces; of mappings, Hydra adds the keys."""
    last: dict[str, int] = {}
    for at, text in enumerate(overrides):
        key, equals, value = text.partition("=")
        if equals and not value.lstrip().startswith("{"):
            last[key.lstrip("+")] = at
    return [
        text
        for at, text in enumerate(overrides)
        if last.get(text.partition("=")[0].lstrip("+"), at) <= at or text.startswith("~")
    ]


def check_arguments(config_name: str, arguments: list[str], check: Check, check_search: Check) -> Sweep | None:
    """Raise InputError for arguments that Hydra cannot read or would misunderstand.

    All jobs of a sweep are composed and passed to `check` before the first one starts, since the last may start hours
    later. The jobs of a search are not known in advance: `check` and `check_search` get the config that they share.

    Returns the sweep that the arguments ask for; None for a single job, or if the configs are not fastconv's own.
    """
    asked = read_arguments(arguments)
    with config_folder(asked.config_dir):
        return _check(config_name, asked, check, check_search)


def _check(config_name: str, asked: Arguments, check: Check, check_search: Check) -> Sweep | None:
    overrides = [parse_override(text) for text in asked.overrides]
    sweep, modes = asked.multirun, [each for each in overrides if each.key_or_group == "hydra.mode"]
    # An experiment may be a sweep by itself, with values of its own.
    values = _with_hydra(config_name, overrides) if sweep or modes or _names_experiment(overrides) else None
    settings = None if values is None else values.hydra
    if settings is not None:
        sweep = sweep or settings.mode == RunMode.MULTIRUN
    if settings is not None and sweep:
        of_experiment = (settings.sweeper.get("params") or {}).items()
        both = [*(parse_override(f"{key}={values}") for key, values in of_experiment), *overrides]
        overrides = list({override.key_or_group: override for override in both}.values())  # the last one for a key wins
    for override in overrides:
        _require_values(override, sweep)
        if override.key_or_group in HYDRA_FOLDERS:
            check_local(override.key_or_group, override.value())
        require_own_sweeper(override)
    if asked.config_path or asked.config_name:
        return None  # configs from another folder, which only Hydra can read
    if not sweep or values is None or settings is None or asked.cfg or asked.info:
        check_options(config_name, overrides)
        return None
    if settings.job.chdir:
        raise InputError(
            "hydra.job.chdir=true is not possible in a sweep: paths such as that of outputs would be others in each job"
        )
    in_turn = settings.launcher._target_.endswith(".BasicLauncher") and not needs_hydra(settings)
    composed: tuple[DictConfig, ...] = ()
    fixed: list[str] = []
    space: list[Dimension] = []
    trials = OmegaConf.select(values, "sweep.trials")
    if trials is not None:
        if not in_turn:
            raise InputError(
                "a search runs its trials one by one, without Hydra's launchers and callbacks: for several at once,"
                " start the command several times with the same sweep.resume=FOLDER"
            )
        fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        space = [dimension(override) for override in overrides if override.is_sweep_override()]
        configs = [_checked_search(config_name, fixed, space, check, check_search)] * trials
    else:
        jobs = list(split_jobs(overrides))
        checked = [_composed(config_name, job, f"job {number}", check) for number, job in enumerate(jobs)]
        for (values, _), job in zip(checked, jobs, strict=True):
            require_one_experiment(values, job)
        if not checked:
            raise InputError(f"the sweep {' '.join(asked.overrides)} has no values")
        configs = [config for _, config in checked]
        if in_turn and len(checked) <= KEPT:
            composed = tuple(values for values, _ in checked)
    check_local("hydra.sweep.dir", settings.sweep.dir)
    check_plain("hydra.sweep.dir", settings.sweep.dir)
    folder, launcher = Path(settings.sweep.dir), settings.launcher._target_
    given = tuple(asked.overrides)
    return Sweep(config_name, given, tuple(configs), folder, composed, launcher, tuple(fixed), tuple(space))


def _require_values(override: Override, in_sweep: bool) -> None:
    """Raise InputError for several values outside a sweep, and for values that are not listed by name."""
    if not in_sweep and override.is_sweep_override():
        raise InputError(
            f"{override.input_line} has several values: add -m to run one after the other, or write a list as [a,b]"
        )
    if isinstance(override.value(), Glob):
        raise InputError(f"{override.input_line} is not possible: name the values, as {override.key_or_group}=a,b")


def _names_experiment(overrides: list[Override]) -> bool:
    return any(override.key_or_group == "experiment" and not override.is_sweep_override() for override in overrides)


def _with_hydra(config_name: str, overrides: list[Override]) -> DictConfig | None:
    """The config of those overrides that have one value, with Hydra's own settings; None if they do not compose, which
    the caller's check then explains."""
    single = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
    try:
        return compose(config_name, single, with_hydra=True)
    except COMPOSING_ERRORS:
        return None


def _composed(config_name: str, job: list[str], name: str, check: Check) -> tuple[DictConfig, Any]:
    """Compose and check one job of a sweep: its config with Hydra's settings, and its typed config.

    Raises InputError, naming the job, if it cannot work.
    """
    try:
        check_options(config_name, [parse_override(text) for text in job])
        values = compose(config_name, job, with_hydra=True)
        config = typed(config_name, without_hydra(values), [text for text in job if not text.startswith("hydra")])
        check(config)
    except COMPOSING_ERRORS as error:
        raise InputError(f"{name}: {explain(error, config_name, job)}") from error
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return values, config


def _checked_search(
    config_name: str, fixed: list[str], space: list[Dimension], check: Check, check_search: Check
) -> Any:
    """Compose the config that all trials of a search share. Raises InputError if it, or any single value, cannot work.

    Of numbers, the least and the greatest are tried.
    """
    shared = _composed(config_name, fixed, "the search", check)[1]
    if not space:
        raise InputError("a search needs settings to vary: give values, such as optimizer.max_lr=interval(0.1,1)")
    for each in space:
        for value in each.tried():
            text = f"{each.key}={value}"
            _composed(config_name, [*fixed, text], text, check)
    check_search(shared)
    return shared
