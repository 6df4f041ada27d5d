"""The jobs of a command: one alone, or those of a sweep, each in this process or, through a launcher, in another."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig

from fastconv.config.arguments import Arguments
from fastconv.config.messages import fail, line_of
from fastconv.config.overrides import compose, needs_hydra, task_overrides, without_hydra
from fastconv.config.run_settings import hparams
from fastconv.config.search import Search
from fastconv.config.sweep_progress import SweepProgress
from fastconv.config.sweeps import Sweep
from fastconv.config.typed_config import typed
from fastconv.runs.folder import RunningElsewhereError, is_finished, is_over, wait_until_free
from fastconv.system.cluster import ranks_of_one_job
from fastconv.system.console_log import begin_log_anew, console_logged
from fastconv.system.distributed import all_know, is_first_rank, world
from fastconv.system.errors import InputError, SharedError, is_of_memory
from fastconv.system.files import is_of_files, write_atomically
from fastconv.system.heartbeat import have_all_left_job
from fastconv.system.names import printable
from fastconv.system.rank_store import begin_job
from fastconv.system.signals import Interrupted, listening, raise_received
from fastconv.system.terminal import print_in_any_encoding
from fastconv.system.urls import redacted

# A job that fails in its own process leaves a file with this prefix in the sweep's folder until all jobs have ended, or
# until it is begun anew, if the sweep was killed before that.
FAILED = ".failed-"
# What makes the command of a sweep's job that of a single run.
ALONE = ("hydra.mode=RUN", "sweep.resume=null", "sweep.report=none")


class Job:
    """The function that Hydra calls with each composed config, in this process or, through a launcher, in another."""

    def __init__(self, config_name: str, body: Callable[[Any], Any], full_error: bool) -> None:
        self._config_name, self._body, self._process = config_name, body, os.getpid()
        self.full_error = full_error
        self.composed, self.failed = False, False
        self.sweep: Sweep | None = None
        self.may_come_back = False
        """Whether a job that another process is running can be left to it until the other jobs are done."""
        self.is_search = False
        self.has_ranks = False
        """Whether this process is one of those that a launcher has started together, which train each job together."""
        self.progress: SweepProgress | None = None
        self.overrides: list[str] = []
        """The overrides of the command line."""
        self.flags: list[str] = []
        """The flags of the command line that the ranks of a job of a sweep need too."""
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
            values.hydra.sweep.dir = str(sweep.folder)
            values.hydra.job.num, values.hydra.job.id = number, str(number)
            self._run_composed(values, RunMode.MULTIRUN)

    def run_search(self, sweep: Sweep) -> None:
        """Run the trials of a search that are left, one by one."""
        self.is_search = True
        search = Search(sweep.folder, sweep.first.sweep, sweep.space, hparams(sweep.first))
        # The folder of a trial needs no access to the database.
        shared = [text for text in sweep.fixed if not text.lstrip("+").startswith("sweep.storage=")]
        for trial in search:
            values = compose(self._config_name, [*shared, *trial.overrides], with_hydra=True)
            values.sweep.storage = None
            values.hydra.sweep.dir = str(sweep.folder)
            values.hydra.job.num, values.hydra.job.id = trial.number, str(trial.number)
            with search.running(trial):
                score = self._run_composed(values, RunMode.MULTIRUN)
            search.tell(trial, score)

    def _run_composed(self, values: DictConfig, mode: RunMode) -> Any:
        """Run a job with a composed config that has Hydra's settings too; return what the body does."""
        values.hydra.mode = mode
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(values)
        try:
            configure_log(values.hydra.job_logging, values.hydra.verbose)
            return self(without_hydra(values))
        finally:
            HydraConfig.instance().cfg = before

    def __call__(self, values: DictConfig) -> Any:
        """Run the body. If a job of a sweep fails, print the reason and let Hydra go on with the other jobs."""
        with contextlib.nullcontext() if os.getpid() == self._process else console_logged():
            return self._run_job(values)

    def _run_job(self, values: DictConfig) -> Any:
        raise_received()  # one that came while the job before failed, or was pruned
        print_in_any_encoding()  # it may be a process of a launcher
        self.composed = True
        if not self.full_error:
            os.environ.pop("HYDRA_FULL_ERROR", None)  # the processes that a run starts must set their own
        hydra_config = HydraConfig.get()
        in_sweep = hydra_config.mode == RunMode.MULTIRUN
        if in_sweep:
            begin_log_anew()
            if is_first_rank():
                _marker_of_failure().unlink(missing_ok=True)
        if in_sweep and self.progress:
            is_here = os.getpid() == self._process and not self.is_search
            say = self.progress.line if is_here else self.progress.line_elsewhere
            print(say(hydra_config.job.num, printable(redacted(" ".join(task_overrides())))), flush=True)
        try:
            config = typed(self._config_name, values, task_overrides())
            if in_sweep:
                _redact_file(Path(hydra_config.sweep.dir, "multirun.yaml"))
                self.sweep = self.sweep or Sweep(self._config_name, (), (config,), Path(hydra_config.sweep.dir))
            alone, here = contextlib.nullcontext(), os.getpid() == self._process
            with self._ranks(config) if in_sweep else alone, alone if here else listening():
                return self._run(config) if in_sweep else self._body(config)
        except Interrupted as error:
            if os.getpid() == self._process or "SUBMITIT_EXECUTOR" not in os.environ:
                raise
            print(f"fastconv: job {hydra_config.job.num}: ended by {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.exit_code) from None
        except Exception as error:
            known = isinstance(error, InputError) or is_of_files(error) or is_of_memory(error)
            if self.full_error or not (in_sweep or known) or (isinstance(error, SharedError) and not in_sweep):
                raise
            line = line_of(error)
            if not in_sweep:
                fail(line)
            if not known:
                print(redacted(traceback.format_exc()), file=sys.stderr)
            if isinstance(error, SharedError) and not is_first_rank():
                return None  # the first rank says so
            line = printable(redacted(" ".join(line.split())))
            print(f"fastconv: job {hydra_config.job.num}: {line}", file=sys.stderr, flush=True)
            if self.has_ranks and not all_know(error) and not have_all_left_job():
                raise SystemExit(1) from error  # it would wait for the others in the next job
            # A launcher would end the first rank, which reports on the sweep, if another one ended with code 1 before.
            self.failed = self.failed or is_first_rank() or not self.has_ranks
            if os.getpid() != self._process:  # the waiting process looks for this file
                _marker_of_failure().touch()
            return None
        finally:
            if in_sweep:
                begin_log_anew()  # what follows is of the sweep
            os.environ["HYDRA_FULL_ERROR"] = "1"

    def _ranks(self, config: Any) -> contextlib.AbstractContextManager[None]:
        """The environment for the ranks of a job of a sweep, which train this run and not the sweep."""
        if getattr(getattr(config, "trainer", None), "world", 1) == 1:
            return contextlib.nullcontext()
        begin_job(HydraConfig.get().job.num)
        return ranks_of_one_job([*self.flags, *task_overrides(), *ALONE])

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
                if world() > 1 and not is_over(error.folder):  # the other ranks have left the job
                    raise InputError(_unfinished(error.folder.parent)) from error

    def wait_for_others(self, sweep: Path) -> None:
        """Wait for the jobs that other processes are running; those that they do not finish count as failed."""
        for folder in self._elsewhere:
            wait_until_free(folder)
            if not is_finished(folder):
                print(f"fastconv: job {folder.name}: {_unfinished(sweep)}", file=sys.stderr, flush=True)
                self.failed = True


def _marker_of_failure() -> Path:
    """The file that the job of a sweep leaves if it fails in its own process."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir, f"{FAILED}{hydra.job.num}")


def _unfinished(sweep: Path) -> str:
    """Say that another process has left a job of a sweep, and what to do."""
    return f"the other process did not finish it: go on with sweep.resume={sweep}"


def sweep_job_folder() -> Path | None:
    """The folder of the job of a sweep that runs in this process; None for a single run."""
    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir, hydra.sweep.subdir) if hydra.mode == RunMode.MULTIRUN else None


def _redact_file(path: Path) -> None:
    """Leave the secrets of URLs out of a file that Hydra has written."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text("utf-8")
        if (safe := redacted(text)) != text:
            write_atomically(path, safe.encode())
