"""Turns a function of a config into a command: it takes Hydra's overrides and reports bad ones in one clear line."""

import contextlib
import functools
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fastconv.config.arguments import check_arguments, read_arguments
from fastconv.config.custom import config_folder, with_custom_groups
from fastconv.config.help import help_text
from fastconv.config.overrides import COMPOSING_ERRORS, explain, task_overrides, typed
from fastconv.config.store import CONF, register
from fastconv.config.sweeps import Sweep, begin, override_of, remove_empty
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, StreamError
from fastconv.system.signals import Interrupted, listening
from fastconv.system.text import printable

# A job that fails in its own process leaves a file with this prefix in the sweep's folder until all jobs have ended.
FAILED = ".failed-"
# Messages are cut after this many characters: a value can be as long as the command line itself.
LINE = 2000


def no_search(config: Any) -> None:
    """Refuse a search over a command that returns no result to maximise."""
    raise InputError("this command has no result to search by: a search is of fastconv.train")


def command(
    config_name: str,
    doc: str | None,
    check: Callable[[Any], object] = lambda config: None,
    check_search: Callable[[Any], None] = no_search,
    after_sweep: Callable[[Any, Path], bool] = lambda config, folder: True,
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a function of a typed config the body of `python -m fastconv.NAME key=value ...`.

    Bad input ends with one line on standard error and exit code 1. With HYDRA_FULL_ERROR=1 it ends with a traceback.

    Args:
        config_name: the file in `conf/`.
        doc: the text that `--help` shows for the command.
        check: raises InputError for a config that cannot work. The body calls it first; for a sweep it is called here
            for all jobs, before the first one starts.
        check_search: the same for a search, in which a sweeper maximises the value that the body returns.
        after_sweep: called with the config of a sweep's first job and the sweep's folder when all jobs have ended;
            returns whether all of them succeeded.
    """

    def decorate(body: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(body)
        def main() -> None:
            register()
            job = Job(config_name, body, "HYDRA_FULL_ERROR" in os.environ)
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # have Hydra raise its errors instead of printing them
            given, well = sys.argv, True
            folders = contextlib.ExitStack()
            try:
                folders.enter_context(config_folder(read_arguments(given[1:]).config_dir))
                if {"--help", "-h"} & set(given[1:]):
                    print(help_text(config_name, doc, given[1:]))
                    return
                arguments = with_custom_groups(given[1:])
                planned = check_arguments(config_name, arguments, check, check_search)
                with listening():
                    sweep = begin(planned) if planned else None
                    sys.argv = [given[0], *arguments, *([override_of(sweep.folder)] if sweep else [])]
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                    sweep = sweep or job.sweep
                    if sweep:
                        for left in sweep.folder.glob(f"{FAILED}*"):
                            left.unlink()
                            job.failed = True
                        if not remove_empty(sweep.folder):
                            well = after_sweep(sweep.first, sweep.folder)
            except InputError as error:
                if job.full_error:
                    raise
                fail(str(error))
            except Interrupted as error:
                if is_first_rank():
                    print("; ".join(filter(None, (f"fastconv: ended by {error}", error.advice))), file=sys.stderr)
                raise SystemExit(error.exit_code) from None
            except COMPOSING_ERRORS as error:
                if job.full_error or (job.composed and not job.failed):
                    raise
                if not job.failed:
                    fail(explain(error, config_name, read_arguments(given[1:]).overrides))
                fail(str(error))  # a search in which every trial failed
            except OSError as error:
                if job.full_error or job.composed:
                    raise
                fail(f"cannot write {error.filename}: {error.strerror}. Choose another folder")
            finally:
                sys.argv = given
                folders.close()
            if job.failed or not well:
                raise SystemExit(1)

        return main

    return decorate


class Job:
    """The function that Hydra calls with each composed config, in this process or, through a launcher, in another."""

    def __init__(self, config_name: str, body: Callable[[Any], Any], full_error: bool) -> None:
        self._config_name, self._body, self._process = config_name, body, os.getpid()
        self.full_error = full_error
        self.composed, self.failed = False, False
        self.sweep: Sweep | None = None

    def __call__(self, values: DictConfig) -> Any:
        """Run the body. If a job of a sweep fails, print the reason and let Hydra go on with the other jobs."""
        self.composed = True
        if not self.full_error:
            os.environ.pop("HYDRA_FULL_ERROR", None)  # the processes that a run starts must set their own
        hydra_config = HydraConfig.get()
        in_sweep = hydra_config.mode == RunMode.MULTIRUN
        try:
            config = typed(self._config_name, values, task_overrides())
            if in_sweep:
                self.sweep = self.sweep or Sweep(self._config_name, (), (config,), Path(hydra_config.sweep.dir))
            with contextlib.nullcontext() if os.getpid() == self._process else listening():
                return self._body(config)
        except Exception as error:
            if self.full_error or not (in_sweep or isinstance(error, InputError)):
                raise
            line = one_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            if not in_sweep:
                fail(line)
            if not isinstance(error, InputError):
                traceback.print_exc()
            line = printable(" ".join(line.split()))
            print(f"fastconv: job {hydra_config.job.num}: {line}", file=sys.stderr, flush=True)
            self.failed = True
            if os.getpid() != self._process:  # the waiting process looks for this file
                Path(hydra_config.sweep.dir, f"{FAILED}{hydra_config.job.num}").touch()
            return None
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"


def fail(line: str) -> None:
    """End the command with one line on standard error and exit code 1."""
    line = printable(" ".join(line.split()))
    print(f"fastconv: {line if len(line) <= LINE else line[:LINE] + '...'}", file=sys.stderr)
    raise SystemExit(1)


def one_line(error: InputError) -> str:
    """The message of an error, with the command that repairs a damaged stream if that is the cause."""
    message = " ".join(str(error).split())
    if isinstance(error, StreamError):
        settings = [override for override in task_overrides() if not override.startswith("verify=")]
        message += f". Repair it with: python -m fastconv.precompute {shlex.join([*settings, 'verify=true'])}"
    return message
