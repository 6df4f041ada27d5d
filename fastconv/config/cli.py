"""Turns a function of a config into a command: it takes Hydra's overrides and reports bad ones in one clear line."""

import contextlib
import functools
import os
import shlex
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig

from fastconv.config.arguments import Arguments, check_arguments, prepare_arguments, read_arguments
from fastconv.config.custom import config_folder
from fastconv.config.help import help_text
from fastconv.config.overrides import (
    COMPOSING_ERRORS,
    compose,
    explain,
    needs_hydra,
    task_overrides,
    typed,
    without_hydra,
)
from fastconv.config.store import CONF, register
from fastconv.config.sweeps import Sweep, begin, override_of, remove_empty
from fastconv.runs.folder import RunningElsewhereError, is_finished, wait_until_free
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, RunWarning, StreamError
from fastconv.system.files import is_of_files, of_file, write_atomically
from fastconv.system.names import printable
from fastconv.system.openmp import wait_briefly
from fastconv.system.process import begin_command
from fastconv.system.signals import Interrupted, listening
from fastconv.system.terminal import ends_with_its_reader, print_in_any_encoding
from fastconv.system.urls import redacted

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
    first_line: str = "",
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Make a function of a typed config the body of `python -m fastconv.NAME key=value ...`.

    Bad input ends with one line on standard error and exit code 1. With HYDRA_FULL_ERROR=1 it ends with a traceback.

    Args:
        config_name: the file in `conf/`.
        doc: the text that `--help` shows for the command.
        check: raises InputError for a config that cannot work. The body calls it first; for a sweep it is called here
            for all jobs, before the first one starts.
        check_search: the same for a search, in which a sweeper maximises the value that the body returns.
        after_sweep: called with a sweep's first config and its folder when all jobs ended; returns if all succeeded.
        first_line: printed at once by a command that takes seconds before it has anything to say.
    """

    def decorate(body: Callable[[Any], Any]) -> Callable[[], None]:
        @ends_with_its_reader
        @functools.wraps(body)
        def main() -> None:
            print_in_any_encoding()
            wait_briefly()
            if body.__module__ == "__main__":
                begin_command()
            register()
            job = Job(config_name, body, os.environ.get("HYDRA_FULL_ERROR") == "1")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its errors instead of printing them
            given, well, format_warning = sys.argv, True, warnings.formatwarning
            arguments = given[1:]
            warnings.formatwarning = functools.partial(_format_warning, format_warning)
            of_threads = threading.excepthook
            threading.excepthook = functools.partial(_of_thread, of_threads)
            sys.excepthook = _print_traceback
            folders = contextlib.ExitStack()
            if not job.full_error:
                folders.callback(os.environ.pop, "HYDRA_FULL_ERROR", None)
            try:
                folders.enter_context(config_folder(read_arguments(arguments).config_dir))
                arguments = prepare_arguments(config_name, arguments)
                if {"--help", "-h"} & set(arguments):
                    print(help_text(config_name, doc, arguments))
                    return
                asked = read_arguments(arguments)
                if first_line and is_first_rank() and (asked.is_plain or asked.multirun):
                    print(first_line, flush=True)
                planned = check_arguments(config_name, arguments, check, check_search)
                with listening():
                    sweep = begin(planned) if planned else None
                    job.may_come_back = planned is not None and not planned.is_search
                    sys.argv = [given[0], *arguments, *([override_of(sweep.folder)] if sweep else [])]
                    if sweep and sweep.composed:
                        job.run_all(sweep)
                    elif sweep or not job.run_alone(asked):
                        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                    sweep = sweep or job.sweep
                    if sweep:
                        for left in sweep.folder.glob(f"{FAILED}*"):
                            left.unlink()
                            job.failed = True
                        job.wait_for_others(sweep.folder)
                        if not remove_empty(sweep.folder):
                            well = after_sweep(sweep.first, sweep.folder)
            except InputError as error:
                if job.full_error:
                    raise
                fail(str(error))
            except Interrupted as error:
                if is_first_rank():
                    line = "; ".join(filter(None, (f"fastconv: ended by {error}", error.advice)))
                    print(redacted(line), file=sys.stderr)
                raise SystemExit(error.exit_code) from None
            except COMPOSING_ERRORS as error:
                if job.full_error or (job.composed and not job.failed):
                    raise
                if not job.failed:
                    fail(explain(error, config_name, read_arguments(arguments).overrides))
                fail(str(error))  # a search in which every trial failed
            except OSError as error:
                if job.full_error or not is_of_files(error):
                    raise
                fail(of_file(error))
            finally:
                sys.argv, warnings.formatwarning, threading.excepthook = given, format_warning, of_threads
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
        self.may_come_back = False
        """Whether a job that another process is running can be left to it until the other jobs are done."""
        self._elsewhere: list[Path] = []

    def run_alone(self, arguments: Arguments) -> bool:
        """Run a single job as `hydra.main` would, but compose its config once, where Hydra does it twice.

        Returns whether it ran; what needs more of Hydra (its flags, settings and callbacks, or a sweep) does not.
        """
        if not arguments.is_plain:
            return False
        values = compose(self._config_name, arguments.overrides, with_hydra=True)
        if values.hydra.mode not in (None, RunMode.RUN) or needs_hydra(values.hydra):
            return False
        self._run_composed(values, RunMode.RUN)
        return True

    def run_all(self, sweep: Sweep) -> None:
        """Run the jobs of a sweep one by one, each with the config that was checked, where Hydra composes it twice."""
        for number, values in enumerate(sweep.composed):
            overrides = printable(redacted(" ".join(values.hydra.overrides.task)))
            print(f"job {number} of {len(sweep.composed)}: {overrides}", flush=True)
            values.hydra.sweep.dir = str(sweep.folder)
            values.hydra.job.num, values.hydra.job.id = number, str(number)
            self._run_composed(values, RunMode.MULTIRUN)

    def _run_composed(self, values: DictConfig, mode: RunMode) -> None:
        """Run a job with a composed config that has Hydra's settings too."""
        values.hydra.mode = mode
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(values)
        try:
            configure_log(values.hydra.job_logging, values.hydra.verbose)
            self(without_hydra(values))
        finally:
            HydraConfig.instance().cfg = before

    def __call__(self, values: DictConfig) -> Any:
        """Run the body. If a job of a sweep fails, print the reason and let Hydra go on with the other jobs."""
        print_in_any_encoding()  # it may be a process of a launcher
        self.composed = True
        if not self.full_error:
            os.environ.pop("HYDRA_FULL_ERROR", None)  # the processes that a run starts must set their own
        hydra_config = HydraConfig.get()
        in_sweep = hydra_config.mode == RunMode.MULTIRUN
        try:
            config = typed(self._config_name, values, task_overrides())
            if in_sweep:
                _redact_file(Path(hydra_config.sweep.dir, "multirun.yaml"))
                self.sweep = self.sweep or Sweep(self._config_name, (), (config,), Path(hydra_config.sweep.dir))
            with contextlib.nullcontext() if os.getpid() == self._process else listening():
                return self._run(config) if in_sweep else self._body(config)
        except Exception as error:
            known = isinstance(error, InputError) or is_of_files(error)
            if self.full_error or not (in_sweep or known):
                raise
            line = line_of(error)
            if not in_sweep:
                fail(line)
            if not known:
                print(redacted(traceback.format_exc()), file=sys.stderr)
            line = printable(redacted(" ".join(line.split())))
            print(f"fastconv: job {hydra_config.job.num}: {line}", file=sys.stderr, flush=True)
            self.failed = True
            if os.getpid() != self._process:  # the waiting process looks for this file
                Path(hydra_config.sweep.dir, f"{FAILED}{hydra_config.job.num}").touch()
            return None
        finally:
            os.environ["HYDRA_FULL_ERROR"] = "1"

    def _run(self, config: Any) -> Any:
        """Run the body for a job of a sweep. One that another process is running is left to it, or waited for."""
        while True:
            try:
                return self._body(config)
            except RunningElsewhereError as error:
                skipped = self.may_come_back and os.getpid() == self._process
                does = f"job {HydraConfig.get().job.num} {'is skipped' if skipped else 'waits'}"
                print(f"{does}: {error.folder} is running in another process, which is left to finish it", flush=True)
                if skipped:
                    self._elsewhere.append(error.folder)
                    return None
                wait_until_free(error.folder)

    def wait_for_others(self, sweep: Path) -> None:
        """Wait for the jobs that other processes are running; those that they do not finish count as failed."""
        for folder in self._elsewhere:
            wait_until_free(folder)
            if not is_finished(folder):
                line = f"job {folder.name}: the other process did not finish it: go on with sweep.resume={sweep}"
                print(f"fastconv: {line}", file=sys.stderr, flush=True)
                self.failed = True


def _format_warning(
    otherwise: Callable[..., str], message: Warning | str, category: type[Warning], *place: Any, **more: Any
) -> str:
    """A warning of a run as one line, and any other as usual."""
    if issubclass(category, RunWarning):
        return f"fastconv: {message}\n"
    return otherwise(message, category, *place, **more)


def _of_thread(otherwise: Callable[[Any], Any], arguments: Any) -> None:
    """Print the traceback of a thread that failed, unless it could not write: what waits for it reports that."""
    if not (arguments.exc_value and is_of_files(arguments.exc_value)):
        otherwise(arguments)


def _redact_file(path: Path) -> None:
    """Leave the secrets of URLs out of a file that Hydra has written."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text()
        if (safe := redacted(text)) != text:
            write_atomically(path, safe.encode())


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def fail(line: str) -> None:
    """End the command with one line on standard error and exit code 1."""
    line = printable(redacted(" ".join(line.split())))
    print(f"fastconv: {line if len(line) <= LINE else line[:LINE] + '...'}", file=sys.stderr)
    raise SystemExit(1)


def line_of(error: Exception) -> str:
    """What a command says of an error, with the command that repairs a damaged stream if that is the cause."""
    if is_of_files(error):
        return of_file(error)
    if not isinstance(error, InputError):
        return f"{type(error).__name__}: {error}"
    message = " ".join(str(error).split())
    if isinstance(error, StreamError):
        settings = [override for override in task_overrides() if not override.startswith("verify=")]
        message += f". Repair it with: python -m fastconv.precompute {shlex.join([*settings, 'verify=true'])}"
    return message
