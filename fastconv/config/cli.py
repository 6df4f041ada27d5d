"""Turns a function of a config into a command: it takes Hydra's overrides and reports bad ones in one clear line."""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra

from fastconv.config.arguments import Arguments, check_arguments, prepare_arguments, read_arguments
from fastconv.config.custom import config_folder
from fastconv.config.failures import process_of_command, reported
from fastconv.config.help import help_text
from fastconv.config.job import FAILED, Job
from fastconv.config.local_jobs import end_local_jobs
from fastconv.config.store import CONF, register
from fastconv.config.sweep_progress import SweepProgress
from fastconv.config.sweeps import Sweep, begin, override_of, remove_empty
from fastconv.system.console_log import console_logged
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError
from fastconv.system.openmp import wait_briefly
from fastconv.system.process import begin_command
from fastconv.system.signals import Interrupted, listening
from fastconv.system.terminal import ends_with_its_reader, print_in_any_encoding

# The first line of a command that imports torch or decodes images before it has more to say.
READING = "fastconv: reading the settings and the images"


def no_search(config: Any) -> None:
    """Refuse a search over a command that returns no result to maximise."""
    raise InputError("only fastconv.train can search: this command has no result to compare")


@dataclass(frozen=True)
class Command:
    """Makes a function of a typed config the body of `python -m fastconv.NAME key=value ...`, as its decorator.

    Bad input ends with one line on standard error and exit code 1. With HYDRA_FULL_ERROR=1 it ends with a traceback.

    Args:
        config_name: the file in `conf/`.
        doc: the text that `--help` shows for the command.
        check: raises InputError for a config that cannot work. The function calls it first; for a sweep it is called
            here for all jobs, before the first one starts.
        check_search: the same for a search, in which a sweeper maximises the value that the function returns.
        after_sweep: called with a sweep's first config and its folder when all jobs ended; returns if all succeeded.
        first_line: printed at once by a command that takes seconds before it has anything to say.
        has_ranks: whether processes that a launcher has started together do each job together; else each does all.
    """

    config_name: str
    doc: str | None
    check: Callable[[Any], object] = lambda config: None
    check_search: Callable[[Any], None] = no_search
    after_sweep: Callable[[Any, Path], bool] = lambda config, folder: True
    first_line: str = ""
    has_ranks: bool = False

    def __call__(self, body: Callable[[Any], Any]) -> Callable[[], None]:
        """Return the command, a function without arguments."""

        @ends_with_its_reader
        @console_logged()
        @functools.wraps(body)
        def main() -> None:
            print_in_any_encoding()
            wait_briefly()
            if body.__module__ == "__main__":
                begin_command()
            register()
            self._run_command(body)

        return main

    def _run_command(self, body: Callable[[Any], Any]) -> None:
        """Run the command of sys.argv. Raises SystemExit if it fails."""
        with process_of_command() as full_error, ExitStack() as folders:
            job = Job(self.config_name, body, full_error)
            with reported(job, self.config_name):
                succeeded = self._run(job, folders)
        if job.failed or not succeeded:
            raise SystemExit(1)

    def _run(self, job: Job, folders: ExitStack) -> bool:
        """Run the jobs of the arguments, and what follows a sweep; return whether that succeeded."""
        _require_working_folder()
        arguments = sys.argv[1:]
        given = read_arguments(arguments)
        job.overrides = given.overrides
        folders.enter_context(config_folder(given.config_dir))
        arguments = prepare_arguments(self.config_name, arguments)
        asked = read_arguments(arguments)
        job.overrides = asked.overrides
        if {"--help", "-h"} & set(arguments):
            print(help_text(self.config_name, self.doc, arguments))
            return True
        if self.first_line and is_first_rank() and (asked.is_plain or asked.multirun):
            print(self.first_line, flush=True)
        planned = check_arguments(self.config_name, arguments, self.check, self.check_search)
        with listening():
            sweep = begin(replace(planned, may_have_ranks=self.has_ranks)) if planned else None
            job.has_ranks = sweep is not None and sweep.has_ranks
            job.flags = ["--config-dir", asked.config_dir] if asked.config_dir else []
            job.may_come_back = planned is not None and not planned.is_search
            count = len(asked.overrides)  # they are the first arguments, and Hydra reads them side by side
            more = [override_of(sweep.folder)] if sweep else []
            sys.argv = [sys.argv[0], *arguments[:count], *more, *arguments[count:]]
            self._run_jobs(job, asked, sweep)
            return self._end_sweep(job, sweep or job.sweep)

    def _run_jobs(self, job: Job, asked: Arguments, sweep: Sweep | None) -> None:
        """Run the jobs in this process where they need nothing of Hydra but their configs, and else through Hydra."""
        if sweep and not sweep.is_kept_by_another:
            job.progress = SweepProgress(len(sweep.configs), sweep.folder)
        if sweep and sweep.is_search:
            job.run_search(sweep)
        elif sweep and sweep.composed:
            job.run_all(sweep)
        elif sweep or not job.run_alone(asked):
            try:
                with _helps_unread():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=self.config_name)(job)()
            except Interrupted:
                end_local_jobs()
                raise

    def _end_sweep(self, job: Job, sweep: Sweep | None) -> bool:
        """Find which jobs failed and do what follows a sweep; return whether that succeeded."""
        if not sweep or sweep.is_kept_by_another:
            return True
        for left in sweep.folder.glob(f"{FAILED}*"):
            left.unlink()
            job.failed = True
        job.wait_for_others(sweep.folder)
        return remove_empty(sweep.folder) or self.after_sweep(sweep.first, sweep.folder)


def _helps_unread() -> AbstractContextManager[object]:
    """Within the block, argparse does not check the helps of flags: from Python 3.14 on it refuses that of Hydra's
    `--shell-completion`, which is no text (https://github.com/facebookresearch/hydra/issues/3121)."""
    from unittest import mock  # takes as long to import as Hydra; few commands come here

    return mock.patch.object(argparse.ArgumentParser, "_check_help", create=True)


def _require_working_folder() -> None:
    """Raise InputError if the folder that the command runs in was removed: no relative path means anything there."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the folder that the command was started in is gone: change to one that is there") from error
