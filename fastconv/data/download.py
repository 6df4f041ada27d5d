"""Reads files behind URLs: no more bytes than are allowed, tried again after a failure, and never without an end."""

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fastconv.data.url_place import Place
from fastconv.data.url_reader import PART_BYTES, SILENCE_SECONDS, WrongContentError
from fastconv.system.errors import InputError
from fastconv.system.files import unwritable
from fastconv.system.urls import redacted

# Seconds between tries: 3.75 in all, so that a broken server is told of within 5 s. A network that changes is back by
# then.
PAUSES = (0.25, 0.5, 1.0, 2.0)
# A file whose server does not say how long it is could have no end.
MOST_UNANNOUNCED_BYTES = 2**30

ADVICE = "Check the address, the network and the server"

T = TypeVar("T")


class UnavailableError(InputError):
    """A file behind a URL does not exist, or does not arrive complete and correct."""


class AbsentError(UnavailableError):
    """A file behind a URL does not exist, or the bucket that it is to be written to."""


class RefusedError(UnavailableError):
    """A server refuses a request, and will refuse it again."""


def tried(act: Callable[[], T], what: str, closed: threading.Event, advice: str, does: str = "fetch") -> T:
    """Call a function that reads from a URL or writes to one, again after growing pauses if it fails.

    It is not called again for what would fail alike: a file that does not exist, that is too long, or that a server
    refuses, one that arrived wrong twice in the same way, and a server that was silent twice.

    Args:
        what: what to name in a message.
        closed: set to end all further tries.
        advice: what to do about a failure.
        does: the verb for a message.

    Raises AbsentError if it does not exist, RefusedError if the server refuses, UnavailableError if all tries fail.
    """
    before, tries, refused = "", 0, False
    for pause in (*PAUSES, None):
        tries += 1
        try:
            return act()
        except FileNotFoundError:
            if does == "write":
                raise AbsentError(f"cannot write {what}: its bucket or folder does not exist. {advice}") from None
            raise AbsentError(f"{what} does not exist. {advice}") from None
        except InputError:
            raise
        except Exception as error:  # every protocol raises its own
            failure, refused = _described(error)
            final = refused
            if isinstance(error, WrongContentError):
                final = error.final
            if isinstance(error, WrongContentError) or _is_silence(error):
                final = final or failure == before
            before = failure
        if final or pause is None or closed.wait(pause):
            break
    often = f" in {tries} tries" if tries > 1 else ""
    line = f"cannot {does} {what}{often}: {failure}. {advice}"
    raise RefusedError(line) if refused else UnavailableError(line)


def _described(error: Exception) -> tuple[str, bool]:
    """The failure in one line, and whether the server refuses, so that another try would fail too."""
    said = getattr(error, "strerror", None) or str(error) or str(error.__cause__ or "")  # fsspec's timeouts say nothing
    text, kind = redacted(" ".join(said.split())).rstrip("."), type(error).__name__
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp, of gcsfs
    if "credential" in kind.lower():  # botocore and google-auth have several
        return f"{text or kind}: set the environment variables of your store, as AWS_PROFILE or AWS_ACCESS_KEY_ID", True
    if isinstance(error, PermissionError) or status in (401, 403) or text.startswith("Forbidden"):  # gcsfs's OSError
        return f"access is denied ({text or kind}): check the credentials", True
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # s3fs's of a 400, whose reason HEAD does not tell
        return f"the store refuses the request ({text}): the credentials may have expired, or the region differ", True
    if not text and _is_silence(error):
        text = f"no answer within {SILENCE_SECONDS:.0f} s"
    return text or kind, isinstance(status, int) and 300 <= status < 500 and status not in (408, 429)


def _is_silence(error: Exception) -> bool:
    """Whether a server did not answer, or the connection was never made; botocore's errors are no TimeoutError."""
    return isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()


def read_all(place: Place, most: int, closed: threading.Event) -> bytes:
    """Read a whole file. Raises what `transfer` raises."""
    content = bytearray()
    transfer(place, content.extend, most, closed)
    return bytes(content)


def transfer(place: Place, put: Callable[[bytes], object], most: int, closed: threading.Event) -> None:
    """Read a whole file, and give it to `put` part by part, so that it need not fit into memory.

    Raises WrongContentError for one of more than `most` bytes, and the protocol's errors.
    """
    file, read = place.open(), 0
    try:
        if file.size is not None and file.size > most:
            raise WrongContentError(f"it has {file.size:,} bytes, and no more than {most:,} can be right", final=True)
        while part := file.read(PART_BYTES):
            read += len(part)
            if read > most:
                raise WrongContentError(f"it goes on after {most:,} bytes, and no more can be right", final=True)
            if closed.is_set():
                raise ConnectionAbortedError("the run has ended")
            put(part)
    finally:
        file.close()


def copy_url(
    url: str, key: str, path: Path, most: int, closed: threading.Event, advice: str, check: Callable[[str], object]
) -> None:
    """Copy a file of at most `most` bytes behind a URL to one on this machine, part by part.

    Args:
        key: the setting that names the URL, for messages.
        check: called with the sha256 of what has arrived; raises WrongContentError for another file.

    Raises UnavailableError if it does not exist or never arrives complete and correct, InputError for a URL that cannot
    be opened, and if the file cannot be written.
    """
    place = Place(url, key)

    def copy() -> None:
        digest = hashlib.sha256()
        with path.open("wb", buffering=0) as file:

            def put(part: bytes) -> None:
                digest.update(part)
                left = memoryview(part)
                try:
                    while left:
                        left = left[file.write(left) :]
                except OSError as error:  # not of the network
                    raise unwritable(path, error) from error

            transfer(place, put, most, closed)
        check(digest.hexdigest())

    tried(copy, redacted(url), closed, advice)


def read_url(url: str, key: str, most: int) -> bytes:
    """Read a whole file of at most `most` bytes behind a URL that a setting names.

    Raises UnavailableError if it does not exist or never arrives, InputError for a URL that cannot be opened.
    """
    place, closed = Place(url, key), threading.Event()
    return tried(lambda: read_all(place, most, closed), redacted(url), closed, ADVICE)
