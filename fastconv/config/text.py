"""Keeps the text of settings that are text, such as paths and names, as it was typed.

Hydra's grammar would read `dataset.root=2024_01_15` as a number, and refuse `dataset.root=café`. The value of a key
whose type is text is quoted for Hydra, unless Hydra reads it as it stands.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fastconv.config.custom import COMPONENTS
from fastconv.config.quoting import quoted, to_paste
from fastconv.config.store import CONF, SCHEMAS
from fastconv.models.configs import SHIPPED
from fastconv.optim import OPTIMIZERS, SCHEDULES
from fastconv.system.errors import InputError
from fastconv.system.settings import is_path, is_text, options_of

# Text settings of the shipped loggers, whose settings are in `conf/logger` and have no schema.
LOGGER_TEXT = ("logger.mlflow.experiment", "logger.mlflow.tracking_uri", "logger.wandb.project")
# What Hydra's grammar keeps its meaning for: null, a missing value, a quoted text, an interpolation, an escaped
# character, and the functions of sweeps and casts.
GRAMMAR = re.compile(
    r"""null|\?\?\?|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.*\$\{.*|.*\\[][(){}:=,\ \t].*"""
    r"""|(?:range|glob|interval|sort|shuffle|tag|extend_list|int|float|str|bool|json_str)\(.*\)""",
    re.DOTALL | re.IGNORECASE,
)
CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)
LIST = re.compile(r"\[(.*)\]", re.DOTALL)
OVERRIDE = re.compile(r"(\+{0,2})([\w.-]+)=(.*)", re.DOTALL)


def as_typed(config_name: str, overrides: Sequence[str], in_sweep: Callable[[], bool]) -> list[str]:
    """Quote the values of text settings where Hydra would read something else than was typed.

    Null, quoted texts, interpolations and sweeps keep their meaning. In a path, a leading ~ becomes the user's home.

    Args:
        in_sweep: whether a comma separates the values of a sweep; asked only if there is one.

    Raises InputError for several values of a key outside a sweep that could be a list or one name with commas.
    """
    return [_as_typed(config_name, override, in_sweep) for override in overrides]


def _as_typed(config_name: str, override: str, in_sweep: Callable[[], bool]) -> str:
    found = OVERRIDE.fullmatch(override)
    if not found or not found[3]:
        return override
    sign, key, value = found.groups()
    kind = _kind(config_name, key)
    if kind is None:
        return override
    choice = CHOICE.fullmatch(value)
    values = _split(choice[1] if choice else value)
    if len(values) < 2:
        return override if choice else f"{sign}{key}={kind.written(value)}"
    if choice or in_sweep():
        return f"{sign}{key}={','.join(kind.written(each.strip()) for each in values)}"
    if kind.several:
        as_list = shlex.quote(f"{key}=[{value}]")
        raise InputError(
            f"{override} has several values: write a list as {as_list}, one name with a comma as"
            f" {to_paste(key, value)}, or add -m to run one after the other"
        )
    return f"{sign}{key}={kind.written(value, whole=True)}"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """The kind of a text setting: whether it is a path, and whether it may be a list."""

    path: bool
    several: bool

    def written(self, value: str, whole: bool = False) -> str:
        """A value, or a list of them, for Hydra; `whole` takes it for one text even if it has commas."""
        if self.several and (items := LIST.fullmatch(value.strip())):
            parts = _split(items[1]) if items[1].strip() else []
            nested = any(LIST.fullmatch(part.strip()) for part in parts)
            return value if nested else f"[{','.join(self._one(part.strip()) for part in parts)}]"
        return self._one(value, whole)

    def _one(self, value: str, whole: bool = False) -> str:
        if not whole and GRAMMAR.fullmatch(value.strip()):
            return value
        text = os.path.expanduser(value) if self.path else value
        return text if _reads_as_itself(text) else quoted(text)


def _kind(config_name: str, key: str) -> _Kind | None:
    """The kind of a text setting; None for a key that is unknown, a group, or of another type."""
    if key in LOGGER_TEXT:
        return _Kind(path=False, several=False)
    if (CONF / key).is_dir():  # a group, such as the experiments
        return None
    names = key.split(".")
    schemas: list[Any] = [SCHEMAS[config_name]]
    if names[0] == "hydra":
        schemas, names = [HydraConf], names[1:]
    field = None
    for at, name in enumerate(names):
        fields = [each for schema in schemas for each in dataclasses.fields(schema) if each.name == name]
        if not fields:
            return None
        field = fields[0]
        schemas = [each.type for each in fields if isinstance(each.type, type) and dataclasses.is_dataclass(each.type)]
        if at == 0 and name in COMPONENTS:
            schemas = [COMPONENTS[name], *SHIPPED, *OPTIMIZERS.values(), *SCHEDULES.values()]
    if field is None or options_of(field):  # a word of a few is checked against them
        return None
    types = [each for each in get_args(field.type) or (field.type,) if each is not type(None)]
    if get_origin(field.type) is list:
        types = [field.type]
    if types == [str]:
        return _Kind(is_path(field), several=False)
    if types == [Any] and is_text(field):
        return _Kind(is_path(field), several=True)
    if len(types) == 1 and get_origin(types[0]) is list and get_args(types[0]) == (str,):
        return _Kind(is_path(field), several=True)
    return None


def is_path_key(key: str) -> bool:
    """Whether a key of some command takes a path."""
    return any((kind := _kind(name, key)) is not None and kind.path for name in SCHEMAS)


def _split(text: str) -> list[str]:
    """The parts of a text between commas that stand neither in quotes nor, where they are balanced, in brackets."""
    for brackets in ("([{", ""):
        parts, depth, quote = [""], 0, ""
        for at, letter in enumerate(text):
            if quote:
                quote = "" if letter == quote and text[at - 1] != "\\" else quote
            elif letter in "'\"" and not parts[-1].strip():  # a quote inside a word is an apostrophe
                quote = letter
            elif brackets and letter in "([{":
                depth += 1
            elif brackets and letter in ")]}":
                depth -= 1
            elif letter == "," and depth == 0 and (at == 0 or text[at - 1] != "\\"):
                parts.append("")
                continue
            parts[-1] += letter
        if depth == 0:
            break
    return parts


def _reads_as_itself(text: str) -> bool:
    """Whether Hydra reads an unquoted value as exactly this text, also once it has written the value itself, when it
    doubles backslashes: as for the ranks of a sweep's job."""
    if "," in text or "\\" in text:
        return False
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except (HydraException, ValueError, RecursionError):
        return False
    return isinstance(value, str) and value == text
