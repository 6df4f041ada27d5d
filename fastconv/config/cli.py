"""Turns a function of a config into a command: it takes Hydra's overrides and reports bad ones in one clear line."""

import contextlib
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra

from fastconv.config import messages
from fastconv.config.arguments import check_arguments, prepare_arguments, read_arguments
from fastconv.config.custom import config_folder
from fastconv.config.help import help_text
from fastconv.config.job import FAILED, Job
from fastconv.config.local_jobs import end_local_jobs
from fastconv.config.messages import fail
from fastconv.config.overrides import COMPOSING_ERRORS
from fastconv.config.store import CONF, register
from fastconv.config.sweep_progress import SweepProgress
from fastconv.config.sweeps import begin, override_of, remove_empty
from fastconv.config.typed_config import explain
from fastconv.system.console_log import console_logged
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, SharedError
from fastconv.system.files import is_of_files, of_file
from fastconv.system.heartbeat import end_after_first_rank, end_last
from fastconv.system.openmp import wait_briefly
from fastconv.system.process import begin_command
from fastconv.system.signals import Interrupted, ending, listening
from fastconv.system.slurm import requeue
from fastconv.system.terminal import ends_with_its_reader, print_in_any_encoding
from fastconv.system.urls import redacted

# The first line of a command that imports torch or decodes images before it has more to say.
READING = "fastconv: reading the settings and the images"


def no_search(config: Any) -> None:
    """Refuse a search over a command that returns no result to maximise."""
    raise InputError("only fastconv.train can search: this command has no result to compare")


def _require_working_folder() -> None:
    """Raise InputError if the folder that the command runs in was removed: no relative path means anything there."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the folder that the command was started in is gone: change to one that is there") from error


def _is_of_submitit(error: BaseException) -> bool:
    """Whether an error is one of submitit's own, such as that a job ended without a result."""
    return type(error).__module__.startswith("submitit.")


def _is_lost_worker(error: RuntimeError) -> bool:
    """Whether a launcher says that one of its processes has died."""
    from concurrent.futures import BrokenExecutor  # base class of joblib's error

    return isinstance(error, BrokenExecutor)


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
        @console_logged()
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
            warnings.formatwarning = functools.partial(messages.format_warning, format_warning)
            of_threads = threading.excepthook
            threading.excepthook = functools.partial(messages.report_thread, of_threads)
            sys.excepthook = messages.print_traceback
            folders = contextlib.ExitStack()
            if not job.full_error:
                folders.callback(os.environ.pop, "HYDRA_FULL_ERROR", None)
            try:
                _require_working_folder()
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
                    job.progress = SweepProgress(len(sweep.configs), sweep.folder) if sweep else None
                    job.flags = ["--config-dir", asked.config_dir] if asked.config_dir else []
                    job.may_come_back = planned is not None and not planned.is_search
                    count = len(asked.overrides)  # they are the first arguments, and Hydra reads them side by side
                    more = [override_of(sweep.folder)] if sweep else []
                    sys.argv = [given[0], *arguments[:count], *more, *arguments[count:]]
                    if sweep and sweep.is_search:
                        job.run_search(sweep)
                    elif sweep and sweep.composed:
                        job.run_all(sweep)
                    elif sweep or not job.run_alone(asked):
                        try:
                            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
                        except Interrupted:
                            end_local_jobs()
                            raise
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
                if isinstance(error, SharedError) and not is_first_rank():
                    end_after_first_rank()
                fail(str(error))
            except Interrupted as error:
                if is_first_rank():
                    with ending():
                        again = requeue() if error.goes_on else ""
                        line = "; ".join(filter(None, (f"fastconv: ended by {error}", error.advice, again)))
                        print(redacted(line), file=sys.stderr)
                else:
                    end_after_first_rank(error.exit_code)
                raise SystemExit(error.exit_code) from None
            except COMPOSING_ERRORS as error:
                if job.full_error or (job.composed and not job.failed):
                    raise
                if not job.failed:
                    fail(explain(error, config_name, read_arguments(arguments).overrides))
                fail(str(error))
            except OSError as error:
                if job.full_error or not is_of_files(error):
                    raise
                fail(of_file(error))
            except RuntimeError as error:
                if job.full_error or not (_is_lost_worker(error) or _is_of_submitit(error)):
                    raise
                if _is_of_submitit(error):
                    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    fail(f"a job ended without a result ({why}): go on with the same command and sweep.resume=auto")
                fail(
                    "a process of the launcher was killed, as the system does when the memory is full: give the command"
                    " again, to train with sweep.resume=auto; finished work is kept"
                )
            finally:
                sys.argv, warnings.formatwarning, threading.excepthook = given, format_warning, of_threads
                folders.close()
                if sys.exc_info()[0]:  # what ends this command ends the other ranks too
                    end_last()
            if job.failed or not well:
                raise SystemExit(1)

        return main

    return decorate
