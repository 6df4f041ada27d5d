"""The command line: Hydra's overrides in, one clear line out when something is wrong with them."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import secrets
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fastconv.config import CONF, register
from fastconv.errors import InputError, StreamError
from fastconv.interrupts import Interrupted, listening
from fastconv.overrides import (
    COMPOSING_ERRORS,
    check_arguments,
    compose,
    explain,
    group_options,
    groups,
    leaves,
    task_overrides,
    typed,
)
from fastconv.ranks import is_first_rank

# Characters of a message beyond which nobody reads: a value may be as long as a command line can be.
LINE = 2000


def command(
    config_name: str,
    doc: str | None,
    check: Callable[[Any], None] = lambda config: None,
    after_sweep: Callable[[Any, Path], None] = lambda config, folder: None,
) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a function of a typed config the body of `python -m fastconv.NAME key=value ...`.

    Bad input ends with one line on standard error and exit code 1. With HYDRA_FULL_ERROR=1 it ends with a traceback.

    Args:
        config_name: the file in `conf/`.
        doc: what `--help` says of the command.
        check: raises InputError for a config that cannot work. The body calls it first; here it is called for all jobs
            of a sweep, before the first one starts.
        after_sweep: called with the config of a sweep's last job and the sweep's folder when all jobs are done.
    """

    def decorate(body: Callable[[Any], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def main() -> None:
            register()
            OmegaConf.register_new_resolver("sweep_dir", sweep_folder, use_cache=True, replace=True)
            full_error = "HYDRA_FULL_ERROR" in os.environ
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # have Hydra raise its errors instead of printing them
            composed, failed, done = False, [], None

            def task(config: DictConfig) -> None:
                nonlocal composed, done
                composed = True
                if not full_error:
                    del os.environ["HYDRA_FULL_ERROR"]  # the processes that a run starts must set their own
                try:
                    job = typed(config_name, config, task_overrides())
                    if HydraConfig.get().mode == RunMode.MULTIRUN:
                        done = (job, Path(HydraConfig.get().sweep.dir))
                    body(job)
                except InputError as error:
                    if full_error:
                        raise
                    line = one_line(error)
                    if HydraConfig.get().mode != RunMode.MULTIRUN:
                        fail(line)
                    print(f"fastconv: job {HydraConfig.get().job.num}: {line}", file=sys.stderr)
                    failed.append(Path(HydraConfig.get().runtime.output_dir))  # and Hydra goes on with the other jobs
                finally:
                    os.environ["HYDRA_FULL_ERROR"] = "1"

            try:
                if {"--help", "-h"} & set(sys.argv[1:]):
                    print(help_text(config_name, doc))
                    return
                check_arguments(config_name, sys.argv[1:], check)
                with listening():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
                    if failed:
                        remove_empty(failed)
                    if done:
                        after_sweep(*done)
            except InputError as error:
                if full_error:
                    raise
                fail(str(error))
            except Interrupted as error:
                if is_first_rank():
                    print("; ".join(filter(None, (f"fastconv: ended by {error}", error.advice))), file=sys.stderr)
                raise SystemExit(error.exit_code) from None
            except COMPOSING_ERRORS as error:
                if full_error or composed:
                    raise
                fail(explain(error, config_name, sys.argv[1:]))
            except OSError as error:
                if full_error or composed:
                    raise
                fail(f"cannot write {error.filename}: {error.strerror}. Choose another folder")
            if failed:
                raise SystemExit(1)

        return main

    return decorate


def sweep_folder(resume: str | None, new: str) -> str:
    """The folder of the sweep to go on with, or of a new one, which no other sweep of the same second shares."""
    return resume or f"{new}-{secrets.token_hex(3)}"


def fail(line: str) -> None:
    """End the command with one line on standard error and exit code 1."""
    line = " ".join(line.split())
    print(f"fastconv: {line if len(line) <= LINE else line[:LINE] + '...'}", file=sys.stderr)
    raise SystemExit(1)


def remove_empty(jobs: list[Path]) -> None:
    """Remove the folders that Hydra made for jobs of a sweep which left nothing in them, and the sweep's if all did."""
    sweep = jobs[0].parent
    for job in jobs:
        with contextlib.suppress(OSError):  # there is something in it
            job.rmdir()
    if [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        with contextlib.suppress(OSError):
            for folder in (sweep, *sweep.parents[:2]):  # outputs/sweeps/<time>
                folder.rmdir()


def one_line(error: InputError) -> str:
    """The message of an error, with the command that mends a damaged stream."""
    message = " ".join(str(error).split())
    if isinstance(error, StreamError):
        settings = [override for override in task_overrides() if not override.startswith("verify=")]
        message += f". Repair it with: python -m fastconv.precompute {shlex.join([*settings, 'verify=true'])}"
    return message


# -- help


def help_text(config_name: str, doc: str | None) -> str:
    """What a command does, its groups with their options, and every key with its value and meaning."""
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    check_arguments(config_name, overrides, lambda config: None)
    config = compose(config_name, overrides)
    name = OmegaConf.to_container(config).get("name") or config_name
    lines = [inspect.cleandoc(doc or name), ""]
    if offered := groups(config_name):
        lines += ["Groups (group=option):"]
        lines += [f"  {group:<12} {', '.join(group_options(group))}" for group in offered]
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


def described_keys(config: DictConfig) -> Iterator[tuple[str, str, str]]:
    """(key, value, meaning) of every leaf of a composed config."""
    for key, section, name in leaves(config):
        value = None if OmegaConf.is_missing(section, name) else section[name]
        meaning = field_docs(OmegaConf.get_type(section)).get(name, "")
        yield key, "null" if value is None else str(value), meaning


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
