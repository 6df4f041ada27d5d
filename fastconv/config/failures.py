"""How a command ends: errors become one line and an exit code, and the process is left as it was."""

import functools
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fastconv.config import messages
from fastconv.config.job import Job
from fastconv.config.messages import fail, line_of
from fastconv.config.overrides import COMPOSING_ERRORS
from fastconv.config.typed_config import explain
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, SharedError, is_of_memory, reason
from fastconv.system.files import is_of_files
from fastconv.system.heartbeat import end_after_first_rank, end_last
from fastconv.system.signals import Interrupted, ending
from fastconv.system.slurm import requeue
from fastconv.system.urls import redacted


@contextmanager
def process_of_command() -> Iterator[bool]:
    """Set the process up for a command, and back when it ends. What fails waits until the other ranks have ended.

    Yields whether errors are to be shown whole, as HYDRA_FULL_ERROR=1 asks.
    """
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its errors instead of printing them
    before = sys.argv, warnings.formatwarning, threading.excepthook
    warnings.formatwarning = functools.partial(messages.format_warning, warnings.formatwarning)
    threading.excepthook = functools.partial(messages.report_thread, threading.excepthook)
    sys.excepthook = messages.print_traceback  # stays: Python calls it after the command, for what ends the process
    try:
        yield full_error
    except BaseException:
        end_last()
        raise
    finally:
        sys.argv, warnings.formatwarning, threading.excepthook = before
        if not full_error:
            os.environ.pop("HYDRA_FULL_ERROR", None)


@contextmanager
def reported(job: Job, config_name: str) -> Iterator[None]:
    """Report errors that a user can mend, and signals, in one line, and raise SystemExit; pass on all others."""
    try:
        yield
    except Interrupted as error:
        _end_by_signal(error)
    except (InputError, OSError, RuntimeError, MemoryError, ImportError, *COMPOSING_ERRORS) as error:
        if job.full_error:
            raise
        if isinstance(error, InputError):
            if isinstance(error, SharedError) and not is_first_rank():
                end_after_first_rank()
            fail(str(error))
        if isinstance(error, COMPOSING_ERRORS):
            if job.composed and not job.failed:
                raise
            fail(str(error) if job.failed else explain(error, config_name, job.overrides))
        if is_of_files(error) or is_of_memory(error):
            fail(line_of(error))
        line = _line_of_import(error) or _line_of_launcher(error)
        if not line:
            raise
        fail(line)


def _end_by_signal(error: Interrupted) -> None:
    """Say which signal ended the command and how it goes on, in the first rank, and end with its exit code."""
    if not is_first_rank():
        end_after_first_rank(error.exit_code)
    else:
        with ending():
            again = requeue() if error.goes_on else ""
            line = "; ".join(filter(None, (f"fastconv: ended by {error}", error.advice, again)))
            print(redacted(line), file=sys.stderr)
    raise SystemExit(error.exit_code) from None


def _line_of_import(error: Exception) -> str:
    """What is said of a package that is missing or broken; nothing of a module of fastconv, or of any other error."""
    if not isinstance(error, ImportError) or (error.name or "").startswith("fastconv"):
        return ""
    return f"a package cannot be imported ({reason(error)}): install it for {sys.executable}"


def _line_of_launcher(error: Exception) -> str:
    """What is said of an error of a sweep's launcher; nothing of any other error."""
    from concurrent.futures import BrokenExecutor  # base class of joblib's error

    if type(error).__module__.startswith("submitit."):
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"a job ended without a result ({why}): go on with the same command and sweep.resume=auto"
    if isinstance(error, BrokenExecutor):
        return (
            "a process of the launcher was killed, as the system does when the memory is full: give the command"
            " again, to train with sweep.resume=auto; finished work is kept"
        )
    return ""
