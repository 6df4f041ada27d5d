"""Keeps the files of a run, which somebody else may have written, from making a command do more than compute.

A `_target_` runs code, and a URL tells its server who opens it: both are followed if the command names them too, or
says `trust=true`. Paths on this machine are opened, as images, tables and arrays; nothing is written there.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastconv.config.prerequisites import require_known
from fastconv.config.schema import Config
from fastconv.data.configs import UNSTORED
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_settings
from fastconv.system.urls import is_redacted

# Settings of images that commands on a run take too (`commands.GivenImages`).
GIVEN = ("dataset.root", "dataset.train", "dataset.test")


def check_stored(config: Config) -> None:
    """Raise InputError for a stored config with a value out of range, or a data set whose name leads elsewhere."""
    check_settings(config)
    require_known(config)
    name = config.dataset.name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or name != printable(name):
        raise InputError(f"dataset.name={name} is not a valid name")


def require_local(settings: Mapping[str, Any], file: Path, trust: bool, prefix: str = "") -> None:
    """Raise InputError for settings of images, read from a file, without their secrets, or with URLs not trusted.

    Args:
        settings: nested settings.
        file: where they were read; somebody else may have written it.
        trust: whether the user trusts the file.
        prefix: of the keys in messages, such as `dataset.`.
    """
    for key, text in _texts(settings, prefix):
        if is_redacted(text):
            raise InputError(
                f"{file} has {key}={text} without its password or signature, so its images cannot be opened:"
                f" {_name_again(key)}"
            )
    for key, text in () if trust else _addresses(settings, prefix):
        raise InputError(
            f"{file} names {key}={_server(text)}, and may be somebody else's: add trust=true if you trust it, or"
            f" {_name_again(key)}"
        )


def _name_again(key: str) -> str:
    """How to name images on the command line; `key` may be that of one of several."""
    key = re.sub(r"\.[0-9]+$", "", key)
    if key in GIVEN:
        return f"give the images again, {key}=URL, or a copy of them on this machine, {key}=PATH"
    return "write the path of a copy on this machine there"


def require_ours(stored: Mapping[str, Any], ours: Mapping[str, Any], folder: Path, trust: bool) -> None:
    """Raise InputError for a run to resume that would send, fetch or write where this command does not.

    A folder of data or of streams that fastconv has filled before is used again; files are written to no other.

    Args:
        stored: the nested settings of the run's folder.
        ours: the nested settings of this command.
        folder: the run's folder.
        trust: whether the user trusts it.
    """
    if links := sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink()):
        raise InputError(f"{folder / links[0]} is a link, and the run would write there: put the file itself there")
    if trust:
        return
    file, named = folder / "config.yaml", dict(_addresses(ours))
    for key, text in _addresses(stored):
        if named.get(key) != text:
            raise InputError(
                f"{file} names {key}={_server(text)}, and may be somebody else's: add {key}=... to name it too, or"
                " trust=true if you trust it"
            )
    if (stored["logger"].get("wandb") or {}).get("offline", True) is not True and "wandb" not in ours["logger"]:
        raise InputError(f"{file} sends to Weights & Biases: add logger=wandb to do so, or trust=true if you trust it")
    for key, mark in _folders(stored):
        text = _value(stored, key)
        if os.path.abspath(text) != os.path.abspath(_value(ours, key)) and not Path(text, mark).exists():
            raise InputError(
                f"{file} names {key}={text}, where fastconv has written nothing yet: add {key}={text} to use it"
            )


def _folders(stored: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, a file that shows that fastconv has written there) of each folder that a run writes to."""
    yield "data", "arrays"
    if stored["stream"]["mode"] not in UNSTORED:
        yield ("stream.cache" if "://" in stored["stream"]["root"] else "stream.root"), ".locks"
    if stored["logger"].get("mlflow"):
        yield "outputs", "mlflow.db"


def _value(settings: Mapping[str, Any], key: str) -> str:
    section, _, name = key.rpartition(".")
    return str((settings[section] if section else settings)[name])


def _addresses(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of each text in nested settings that fsspec, or a logger, could take for a URL."""
    return ((key, text) for key, text in _texts(settings, prefix) if "://" in text or "::" in text)


def _texts(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of each text in nested settings."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _texts(value, f"{prefix}{key}.")
    elif isinstance(settings, list | tuple):
        for at, value in enumerate(settings):
            yield from _texts(value, f"{prefix}{at}.")
    elif isinstance(settings, str):
        yield prefix.removesuffix("."), settings


def _server(text: str) -> str:
    """A URL without what may be secret: user, password, path and query."""
    try:
        url = urlsplit(text)
        return f"{url.scheme}://{url.hostname or ''}/..."
    except ValueError:
        return "a URL"
