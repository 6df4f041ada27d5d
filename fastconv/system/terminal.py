"""The output of a command: works in any encoding of the terminal, and ends when nobody reads it."""

import errno
import functools
import os
import select
import sys
from collections.abc import Callable

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


def ends_with_its_reader(command: Callable[[], None]) -> Callable[[], None]:
    """A command that ends without a word, as others in a pipe do, when the one that reads its output has ended."""

    @functools.wraps(command)
    def main() -> None:
        try:
            try:
                command()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OSError as error:
            if error.errno not in BROKEN_PIPE_ERRORS or not _is_broken():  # a server's pipe, for example
                raise
            # Python flushes it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE_CODE) from None

    return main


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
