"""Messages about warnings and errors: one line for each that a user can fix, a traceback for any other."""

import shlex
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from fastconv.config.overrides import task_overrides
from fastconv.system.distributed import let_first_rank_speak
from fastconv.system.errors import InputError, RunWarning, StreamError, is_of_memory, of_memory, reason
from fastconv.system.files import TOO_MANY, is_of_files, of_file
from fastconv.system.names import printable
from fastconv.system.terminal import say_of_interrupt
from fastconv.system.urls import redacted

# Messages are cut after this many characters: a value can be as long as the command line itself.
LINE = 2000


def format_warning(
    otherwise: Callable[..., str], message: Warning | str, category: type[Warning], *place: Any, **more: Any
) -> str:
    """A warning of a run as one line, and any other as usual."""
    if issubclass(category, RunWarning):
        return f"fastconv: {message}\n"
    return otherwise(message, category, *place, **more)


def report_thread(otherwise: Callable[[Any], Any], arguments: Any) -> None:
    """Print the traceback of a thread that failed, unless it could not write: what waits for it reports that.

    One that could open no more files gets a line: nothing may wait for it, and the command may not end.
    """
    error = arguments.exc_value
    if not (error and is_of_files(error)):
        otherwise(arguments)
    elif error.errno in TOO_MANY:
        print(f"fastconv: a thread has failed: {printable(redacted(of_file(error)))}", file=sys.stderr, flush=True)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that is none of the user's input, without the secrets of URLs; none of Ctrl-C."""
    if not say_of_interrupt(kind, error, trace):
        print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def fail(line: str) -> NoReturn:
    """End the command with one line on standard error and exit code 1."""
    let_first_rank_speak()
    line = printable(redacted(" ".join(line.split())))
    print(f"fastconv: {line if len(line) <= LINE else line[:LINE] + '...'}", file=sys.stderr)
    raise SystemExit(1)


def line_of(error: Exception) -> str:
    """The message about an error, with the command that repairs a damaged stream if this is the cause."""
    if is_of_files(error):
        return of_file(error)
    if is_of_memory(error):
        return of_memory(error)
    if not isinstance(error, InputError):
        return reason(error)
    message = " ".join(str(error).split())
    if isinstance(error, StreamError):
        settings = [override for override in task_overrides() if not override.startswith("verify=")]
        message += f". Repair it with: python -m fastconv.precompute {shlex.join([*settings, 'verify=true'])}"
    return message
