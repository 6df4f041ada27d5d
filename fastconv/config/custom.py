"""Lets a user add components by the dotted path of their class, and folders of configs, on the command line."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastconv.config.quoting import quoted
from fastconv.models.configs import CustomNetwork
from fastconv.optim import CustomOptimizer, CustomSchedule
from fastconv.system.errors import InputError
from fastconv.system.targets import KEY, Component

# The groups whose options have different keys, with the class that holds the settings of a user's own component.
COMPONENTS: dict[str, type[Component]] = {
    "model": CustomNetwork,
    "optimizer": CustomOptimizer,
    "schedule": CustomSchedule,
}

# Config folders, beside fastconv's own, that the running command was given. Hydra composes for one command at a time.
_folders: list[Path] = []


@contextmanager
def config_folder(folder: str | None) -> Iterator[None]:
    """Search a folder for configs too, as `--config-dir` does; None changes nothing.

    Raises InputError for a folder that does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"--config-dir {folder} is not a folder: give one with configs, as {folder}/model/mine.yaml")
    before = list(_folders)
    if folder is not None:
        _folders[:] = [Path(folder).absolute()]
    try:
        yield
    finally:
        _folders[:] = before


def with_config_folders(overrides: Sequence[str]) -> list[str]:
    """Add to some overrides the `hydra.searchpath` that makes Hydra find the configs of those folders."""
    if not _folders:
        return list(overrides)
    key = "hydra.searchpath="
    own = [each.removeprefix(key).strip("[]") for each in overrides if each.startswith(key)]
    ours = [quoted(f"file://{folder}") for folder in _folders]
    others = [each for each in overrides if not each.startswith(key)]
    return [*others, f"{key}[{','.join([*own, *ours])}]"]


def own_options(group: str) -> list[str]:
    """The options of a config group that those folders contain."""
    return [path.stem for folder in _folders for path in (folder / group).glob("*.yaml")]


def with_custom_groups(arguments: Sequence[str]) -> list[str]:
    """Add `model=custom` to a command line with `model._target_=...` but no model; so for all groups with
    components."""
    found = list(arguments)
    for group in (*COMPONENTS, "dataset"):
        named = [at for at, text in enumerate(found) if re.match(rf"\+{{0,2}}{group}\.{KEY}=", text)]
        if named and not any(re.match(rf"\+{{0,2}}{group}(@\w+)?=", text) for text in found):
            found.insert(named[0], f"{group}=custom")  # beside it: options may stand before or after all overrides
    return found
