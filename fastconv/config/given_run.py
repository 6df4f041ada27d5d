"""The run that `evaluate`, `explain`, `export` and `predict` are given: a folder, or the newest one below `outputs`."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastconv.config.commands import as_list
from fastconv.config.run_store import fetch_run, split_url
from fastconv.runs.collection import newest_finished
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import is_url

# The word that stands for the newest finished run, and the keys that take it.
LATEST = "latest"
KEYS = ("run", "against")

C = TypeVar("C")


def latest_run(key: str, outputs: Path) -> Path:
    """The newest finished run below `outputs`, for which a key has the word `latest`.

    Raises InputError if there is no such run, or if a folder has that name.
    """
    if Path(LATEST).is_dir():
        raise InputError(f"{key}={LATEST} could be the folder {LATEST} that is here: write {key}=./{LATEST} for it")
    return newest_finished(outputs)


def _fetched(config: C) -> C:
    """The config with runs of an object store fetched below its `outputs`, where they stay."""
    given: Any = config

    def fetched(key: str, value: object) -> object:
        if isinstance(value, list):
            return [fetched(key, each) for each in value]
        if not is_url(value):
            return value
        _, *names = split_url(str(value), key)
        folder = Path(given.outputs).joinpath(*names)
        fetch_run(str(value), folder, key)
        return str(folder)

    values = {key: getattr(given, key, None) for key in KEYS}
    asked = {key: fetched(key, value) for key, value in values.items() if any(map(is_url, as_list(value)))}
    return dataclasses.replace(given, **asked) if asked else config


def _require_run(key: str, folder: object) -> None:
    """Raise InputError, before torch is imported, for what is not the folder of a run."""
    try:
        os.stat(f"{folder}/config.yaml")
    except FileNotFoundError as error:
        why = "it has no config.yaml" if os.path.isdir(str(folder)) else "it is not there"
        raise InputError(
            f"{key}={folder} is not the folder of a run: {why}. Give one such as"
            f" outputs/digits/2026-11-25_09-00-00-a1b2c3, or {key}={LATEST}"
        ) from error
    except OSError:  # reading it tells more
        pass


def check_given_run(config: C, check: Callable[[C], object], prints_data: bool = False) -> C:
    """Check a config, and put the newest finished run below its `outputs` in the place of the word `latest`.

    It prints which run is read: what follows imports torch, which takes seconds. Where standard output is for data, it
    prints only what `latest` stands for, to standard error.

    Args:
        check: raises InputError for a config that cannot work.
        prints_data: whether standard output is for data.

    Raises InputError for another folder than that of a run, if there is no newest run, or if a folder has that name.
    """
    config = _fetched(config)
    given: Any = config
    named = [(key, each) for key in KEYS for each in as_list(getattr(given, key, None))]
    for key, each in named:
        if os.path.isfile(str(each)):  # as a checkpoint
            raise InputError(f"{key}={each} is a file: give the folder of its run, as {key}={Path(str(each)).parent}")
    check(config)
    for key, each in named:
        if each != LATEST:
            _require_run(key, each)
    found: dict[str, Any] = {}
    for key in KEYS:
        value = getattr(given, key, None)
        if LATEST not in as_list(value):
            continue
        newest = str(latest_run(key, Path(given.outputs)))
        found[key] = [newest if each == LATEST else each for each in value] if isinstance(value, list) else newest
    if found:
        given = dataclasses.replace(given, **found)
        check(given)
    if prints_data and not found:
        return given  # type: ignore[no-any-return]
    line = f"reading {', '.join(map(str, as_list(given.run)))}" + f", which {LATEST} stands for" * bool(found)
    print(printable(f"fastconv: {line}"), file=sys.stderr if prints_data else sys.stdout, flush=True)
    return given  # type: ignore[no-any-return]
