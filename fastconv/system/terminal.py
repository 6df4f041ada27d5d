"""What a command prints: in any encoding of the terminal, and only as long as somebody reads it."""

import functools
import os
import select
import sys
from collections.abc import Callable

# The exit code of a command whose output nobody reads, as a shell reports SIGPIPE, which Windows has not.
BROKEN_PIPE_CODE = 128 + 13


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
        except BrokenPipeError:
            if not _is_broken():  # a server's, for example
                raise
            # Python flushes it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE_CODE) from None

    return main


def _is_broken() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # it is no file, or the system has no poll
        return False
