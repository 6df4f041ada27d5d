"""The error that a user can mend: one line that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input. Commands print the message as one line and exit with code 1, without a traceback."""


class StreamError(InputError):
    """A stream's file is missing, damaged or foreign. Commands add the command that repairs it."""


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean X?` for the closest of `words`, or the end of the sentence."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "."


def reason(error: BaseException) -> str:
    """Why something ended, in one line: an InputError says it in words, of others the type tells as much."""
    message = " ".join(str(error).split())
    return message if isinstance(error, InputError) else f"{type(error).__name__}: {message}"
