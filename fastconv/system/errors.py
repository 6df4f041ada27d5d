"""Errors that a user can fix: one line that says what is wrong, where, and what to do."""

import difflib
import warnings
from collections.abc import Iterable

# A word is suggested if it is as alike as this: difflib's own limit. At 0.5, half of the letters could be others.
CUTOFF = 0.6
# What torch, the system and the loader of libraries say where a process gets no more memory, as by `ulimit -v`. The
# loader says why it cannot map a library (the last text) only where that has another cause, such as `noexec`.
NO_MEMORY = ("out of memory", "cannot allocate memory", "can't allocate memory")
UNMAPPED = "failed to map segment from shared object"


class InputError(Exception):
    """Bad input. Commands print the message as one line and exit with code 1, without a traceback."""


class SharedError(InputError):
    """Bad input of a run of several processes that ends all of them alike. The first one prints the message."""


class StreamError(InputError):
    """A stream's file is missing, damaged or of another stream. Commands add to the message how to repair it."""


class RunWarning(UserWarning):
    """Something that does not end a command, but that its user should know. Commands print it as one line."""


def warn(message: str) -> None:
    """Warn with one line."""
    warnings.warn(" ".join(message.split()), RunWarning, stacklevel=3)


def nearest(word: str, words: Iterable[str], cutoff: float = CUTOFF) -> str:
    """`; did you mean X?` for the closest of `words`, or a full stop if none is as alike as `cutoff`."""
    by_lower = {each.lower(): each for each in words}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[close[0]]}?" if close else "."


def message_of(error: BaseException, most: int | None = None) -> str:
    """What an error says, in one line of at most `most` characters; the name of its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def reason(error: BaseException) -> str:
    """Describe an error in one line. The type is included unless it is an InputError, whose message is enough."""
    message, kind = " ".join(str(error).split()), type(error).__name__
    return message if isinstance(error, InputError) else f"{kind}: {message}" if message else kind


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that the process, or its GPU, got no more memory."""
    if not isinstance(error, MemoryError | OSError | RuntimeError | ImportError):
        return False
    said = message_of(error).lower()
    return isinstance(error, MemoryError) or said.endswith(UNMAPPED) or any(text in said for text in NO_MEMORY)


def of_memory(error: BaseException) -> str:
    """Say in one line that there is too little memory, and what may help."""
    said = message_of(error, 200).rstrip(".")
    return (
        f"there is too little memory: {said}. Close other programs, allow the process more (ulimit -v, or the memory of"
        " its job), or compute fewer images at once (batch_size)"
    )
