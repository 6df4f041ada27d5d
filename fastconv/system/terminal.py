"""The output of a command: in any encoding of the terminal, only while somebody reads it, and one line on Ctrl-C."""

import errno
import functools
import os
import select
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# The exit code of a command whose output nobody reads, as a shell reports SIGPIPE, which Windows has not.
BROKEN_PIPE_CODE = 128 + 13
# Of writing to a pipe that nobody reads; on Windows it may be either (https://github.com/python/cpython/issues/79935).
BROKEN_PIPE_ERRORS = (errno.EPIPE, errno.EINVAL)


def print_in_any_encoding() -> None:
    """Make standard output and standard error write what their encoding lacks as backslash escapes.

    A name in another script, or one that is not UTF-8, would else end a command whose work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a test or a notebook puts in their place may lack it
            stream.reconfigure(errors="backslashreplace")


def rich_console(**settings: Any) -> "Console":
    """A console of rich. Where nobody reads its output, the command ends as it does where it prints itself."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:  # rich's own ends with exit code 1
            self.quiet = True
            _discard_output()
            raise SystemExit(BROKEN_PIPE_CODE)

    return Piped(**settings)


def plain_console(**settings: Any) -> "Console":
    """A console of rich that prints text as it is: what is in brackets is no markup, and long lines stay whole."""
    return rich_console(highlight=False, markup=False, soft_wrap=True, **settings)


def say_of_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> bool:
    """Say in one line that Ctrl-C ended a command, if that is the error. Returns whether it is."""
    if issubclass(kind, KeyboardInterrupt):
        print("fastconv: ended by SIGINT", file=sys.stderr)
        return True
    return False


def say_of_interrupts() -> None:
    """Say one line from now on, and no traceback, where Ctrl-C ends the process."""
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not say_of_interrupt(kind, error, trace):
            otherwise(kind, error, trace)

    sys.excepthook = hook


def is_module_of(package: str) -> bool:
    """Whether Python is about to run `python -m PACKAGE...`, and is still importing what the module needs."""
    if sys.argv[:1] != ["-m"] or "-m" not in sys.orig_argv:  # Python's word until it has found the module
        return False
    return sys.orig_argv[sys.orig_argv.index("-m") + 1].partition(".")[0] == package


def ends_with_its_reader(command: Callable[[], None]) -> Callable[[], None]:
    """A command that ends without a word, as others in a pipe do, when the one that reads its output has ended.

    With one line it ends where the output goes to a disk that is full.
    """

    @functools.wraps(command)
    def main() -> None:
        try:
            try:
                command()
            finally:
                _flush(said=sys.exception() is not None)
        except OSError as error:
            if error.errno not in BROKEN_PIPE_ERRORS or not _is_broken():  # a server's pipe, for example
                raise
            _discard_output()
            raise SystemExit(BROKEN_PIPE_CODE) from None

    return main


def _flush(said: bool) -> None:
    """Write what is left of the output. Ends the command where it cannot be, with a line unless it has `said` why."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if error.errno in BROKEN_PIPE_ERRORS:
            raise
        _discard_output()
        if not said:
            print(f"fastconv: cannot write the output: {error.strerror}", file=sys.stderr)
            raise SystemExit(1) from None


def _discard_output() -> None:
    """Send to nowhere what Python would write once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_broken() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
    except AttributeError:  # Windows has none. One more line tells, and is harmless before another error's traceback
        try:
            print(flush=True)
        except OSError as error:
            return error.errno in BROKEN_PIPE_ERRORS
        except ValueError:  # it is closed
            pass
        return False
    try:
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # it is no file
        return False
