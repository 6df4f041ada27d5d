"""Errors that a user can fix: one line that says what is wrong, where, and what to do."""

import difflib
import warnings
from collections.abc import Iterable

# A word is suggested if it is as alike as this: difflib's own limit. At 0.5, half of the letters could be others.
CUTOFF = 0.6


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
    message = " ".join(str(error).split())
    return message if isinstance(error, InputError) else f"{type(error).__name__}: {message}"
