"""Sends files to URLs, each whole, and again after a failure; and removes them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastconv.data.download import AbsentError, tried
from fastconv.data.url_place import Place
from fastconv.data.url_reader import WrongContentError
from fastconv.system.urls import redacted


def send_file(path: Path, url: str, key: str, closed: threading.Event, advice: str) -> None:
    """Send a file of this machine. One that is changed meanwhile may arrive as it was before, or as it is then.

    Args:
        url: of any protocol that fsspec can write to.
        key: the setting that names the URL, for messages.
        closed: set to end all further tries.
        advice: what to do about a failure.

    Raises UnavailableError if it does not arrive whole, AbsentError if it or its bucket does not exist, and InputError
    for a URL that cannot be opened.
    """
    place = Place(url, key)

    def send() -> None:
        before = path.stat()
        place.put(path)
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            _require_whole(place, now.st_size)

    _tried(send, url, closed, advice)


def send_bytes(content: bytes, url: str, key: str, closed: threading.Event, advice: str) -> None:
    """Send bytes to a URL. Takes and raises what `send_file` does."""
    place = Place(url, key)

    def send() -> None:
        place.write(content)
        _require_whole(place, len(content))

    _tried(send, url, closed, advice)


def remove_file(url: str, key: str, closed: threading.Event, advice: str) -> None:
    """Remove the file behind a URL, if it is there, and its folder if that is empty then. Takes what `send_file` does.

    Raises UnavailableError for one that cannot be removed, InputError for a URL that cannot be opened.
    """
    place = Place(url, key)
    with suppress(AbsentError):
        tried(place.remove, redacted(url), closed, advice, does="remove")


def _require_whole(place: Place, size: int) -> None:
    if ["size", str(size)] not in place.about():
        raise WrongContentError(f"not all of its {size:,} bytes arrived")


def _tried(send: Callable[[], None], url: str, closed: threading.Event, advice: str) -> None:
    tried(send, redacted(url), closed, advice, does="write")
