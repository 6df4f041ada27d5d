"""The command line: Hydra's overrides in, one clear line out when something is wrong with them."""

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import secrets
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastconv.config import CONF, nearest, register
from fastconv.errors import InputError, StreamError
from fastconv.interrupts import Interrupted, listening
from fastconv.ranks import is_first_rank


def command(config_name: str, doc: str | None) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a function of a typed config the body of `python -m fastconv.NAME key=value ...`.

    Bad input ends with one line on standard error and exit code 1. With HYDRA_FULL_ERROR=1 it ends with a traceback.
    """

    def decorate(body: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def main() -> None:
            register()
            OmegaConf.register_new_resolver("short_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(help_text(config_name, doc))
                return
            full_error = "HYDRA_FULL_ERROR" in os.environ
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # have Hydra raise its errors instead of printing them
            composed = False

            def task(config: DictConfig) -> None:
                nonlocal composed
                values = OmegaConf.to_object(config)
                composed = True
                if not full_error:
                    del os.environ["HYDRA_FULL_ERROR"]  # the processes that a run starts must set their own
                try:
                    body(values)
                except InputError as error:
                    if full_error:
                        raise
                    line = one_line(error)
                    if HydraConfig.get().mode != RunMode.MULTIRUN:
                        fail(line)
                    print(f"fastconv: job {HydraConfig.get().job.num}: {line}", file=sys.stderr)
                    raise  # to Hydra, which goes on with the other jobs
                finally:
                    os.environ["HYDRA_FULL_ERROR"] = "1"

            try:
                with listening():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
            except InputError:
                if full_error:
                    raise
                raise SystemExit(1) from None  # said when the job of the sweep failed
            except Interrupted as error:
                if is_first_rank():
                    print("; ".join(filter(None, (f"fastconv: ended by {error}", error.advice))), file=sys.stderr)
                raise SystemExit(error.exit_code) from None
            except (HydraException, OmegaConfBaseException, AssertionError, ValueError, TypeError) as error:
                if full_error or composed:
                    raise
                fail(explain_override(error, config_name))
            except OSError as error:
                if full_error or composed:
                    raise
                fail(f"cannot write {error.filename}: {error.strerror}. Choose another folder")

        return main

    return decorate


def fail(line: str) -> None:
    """End the command with one line on standard error and exit code 1."""
    print(f"fastconv: {line}", file=sys.stderr)
    raise SystemExit(1)


def one_line(error: InputError) -> str:
    """The message of an error, with the command that mends a damaged stream."""
    message = " ".join(str(error).split())
    if isinstance(error, StreamError):
        settings = [override for override in HydraConfig.get().overrides.task if not override.startswith("verify=")]
        message += f". Repair it with: python -m fastconv.precompute {shlex.join([*settings, 'verify=true'])}"
    return message


def explain_override(error: Exception, config_name: str) -> str:
    """One line for an error of Hydra's or OmegaConf's, with the nearest right name."""
    text = str(error)
    cause = str(error.__cause__ or error.__context__ or "")
    if match := re.search(r"Could not override '(.+?)'", text):
        key = match[1]
        return f"unknown key {key}{nearest(key, keys(config_name))} --help lists all keys"
    if match := re.search(r"Could not find '(?:(.+)/)?(.+)'", text):
        group, option = match[1], match[2]
        options = group_options(group) if group else []
        return f"unknown {group or 'config'} {option}{nearest(option, options)} Choose from: {', '.join(options)}"
    if match := re.search(r"Key '(.+?)' not in '(.+?)'", text + cause):
        names = [key.split(".")[-1] for key in keys(config_name)]
        return f"unknown key {match[1]} in {match[2]}{nearest(match[1], names)} --help lists all keys"
    if match := re.search(r"Could not append to config.*?'(.+?)'|An item is already at '(.+?)'", text):
        return f"key {match[1] or match[2]} exists already: write it without the +"
    key = re.search(r"full_key: (\S+)", text + cause)
    value = re.search(r"Value .*|Invalid value .*|Cannot convert .*|.*not a valid.*", text + "\n" + cause)
    if key and value:
        return f"{key[1]}: {value[0].strip()}"
    if match := re.search(r"field '(.+?)' is not Optional", cause):
        return f"{match[1]} cannot be null"
    if "parsing override" in text or "override_grammar" in text:
        override = re.search(r"parsing override '(.*?)'|Exception: (.*)", text)
        named = (override[1] or override[2]) if override else ""
        return f"cannot read the override {named}: write key=value, and quote special characters"
    return " ".join(text.split("Config search path")[0].split()) or type(error).__name__


def group_options(group: str) -> list[str]:
    """The options of a config group, such as the data sets."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config of a command for some overrides, as Hydra composes it."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, overrides)


def keys(config_name: str) -> list[str]:
    """Every key that can be set, with all its parents, and the groups."""
    schema = compose(config_name, [])
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    return groups + [key for key, *_ in described_keys(schema)]


# -- help


def help_text(config_name: str, doc: str | None) -> str:
    """What a command does, its groups with their options, and every key with its value and meaning."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    try:
        config = compose(config_name, overrides)
    except Exception as error:  # whatever is wrong with an override, help should say so in a line
        fail(explain_override(error, config_name))
    name = OmegaConf.to_container(config).get("name") or config_name
    lines = [inspect.cleandoc(doc or name), ""]
    if config_name == "config":
        lines += ["Groups (group=option):"]
        groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
        lines += [f"  {group:<12} {', '.join(group_options(group))}" for group in groups]
        lines += [""]
    lines += ["Keys (key=value), with the value that these overrides give:"]
    for key, value, meaning in described_keys(config):
        lines.append(f"  {key}={value}")
        lines += textwrap.wrap(meaning, 112, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += [
        "",
        "Several values with -m make a sweep: -m seed=0,1,2. --cfg job prints the composed config. HYDRA_FULL_ERROR=1",
        "shows tracebacks.",
    ]
    return "\n".join(lines)


def described_keys(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, value, meaning) of every leaf of a composed config."""
    docs = field_docs(OmegaConf.get_type(config))
    for name in config:
        if name == "hydra":
            continue
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from described_keys(node, f"{prefix}{name}.")
        else:
            value = None if OmegaConf.is_missing(config, name) else config[name]
            yield f"{prefix}{name}", "null" if value is None else str(value), docs.get(name, "")


@functools.cache
def field_docs(schema: type) -> dict[str, str]:
    """The string under each field of a dataclass and of those it extends."""
    docs: dict[str, str] = {}
    for parent in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(parent):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0].body
        for entry, after in itertools.pairwise(body):
            if (
                isinstance(entry, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[entry.target.id] = " ".join(str(after.value.value).split())
    return docs
