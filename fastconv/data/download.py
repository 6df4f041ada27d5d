"""Reads files behind URLs: no more bytes than are allowed, tried again after a failure, and never without an end."""

import asyncio
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

from fastconv.system.errors import InputError
from fastconv.system.urls import redacted, require_whole

# Seconds between tries: 3.75 in all, so that a broken server is told of within 5 s. A network that changes is back by
# then.
PAUSES = (0.25, 0.5, 1.0, 2.0)
# A try ends if the server sends nothing for this many seconds, or from then on fewer bytes per second than these on
# average. A download that makes progress has no time limit.
SILENCE_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 1000
# Bytes to read at once.
PART_BYTES = 2**20
# A file whose server does not say how long it is could have no end.
MOST_UNANNOUNCED_BYTES = 2**30

ADVICE = "Check the address, the network and the server"

T = TypeVar("T")


class UnavailableError(InputError):
    """A file behind a URL does not exist, or does not arrive complete and correct."""


class WrongContentError(ValueError):
    """A file arrived, and is not what it should be. `final` if another try is not worth its time."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Reader(Protocol):
    """A file that is being read.

    `size` is its size in bytes, or None if the server does not say; `version` differs between two versions of it.
    """

    @property
    def size(self) -> int | None: ...

    @property
    def version(self) -> object: ...

    def read(self, most: int) -> bytes: ...

    def close(self) -> None: ...


class Place:
    """An address: a file system of fsspec, and a path in it.

    Args:
        url: of any protocol that fsspec supports.
        key: the setting that names it, for messages.

    Raises InputError for a URL that cannot be opened.
    """

    def __init__(self, url: str, key: str) -> None:
        from fsspec.core import url_to_fs

        require_whole(url, key)
        self.is_http = url.lower().startswith(("http://", "https://"))
        options: dict[str, Any] = {}
        if self.is_http:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
            # Proxies are used, as for other downloads. Bodies are decompressed here, where the bytes are counted.
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True, "auto_decompress": False}
        try:
            self.system, self.path = url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise InputError(f"cannot open {url}: {error}. Set {key} to another address or to a folder") from None

    def open(self, start: int = 0, version: object = None) -> Reader:
        """Open the file to read it from byte `start` on, if it still has the `version` of its beginning.

        Raises WrongContentError for another version, and the errors of the protocol.
        """
        return _HttpFile(self, start, version) if self.is_http else _File(self, start, version)


def below(url: str, name: str) -> str:
    """The URL of a file below the folder that a URL names; a query of the URL stays at its end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _require_same(before: object, now: object) -> None:
    if before != now:
        raise WrongContentError("it has changed while it was read", final=True)


class _File:
    """A file of a protocol other than HTTP."""

    def __init__(self, place: Place, start: int, version: object) -> None:
        self._file = place.system.open(place.path, "rb")
        size = getattr(self._file, "size", None)
        self.size = self.version = size if isinstance(size, int) else None
        if start:
            _require_same(version, self.version)
            self._file.seek(start)

    def read(self, most: int) -> bytes:
        content: bytes = self._file.read(most)
        return content

    def close(self) -> None:
        self._file.close()


class _HttpFile:
    """The body of an answer over HTTP, as it comes. Only http and https are followed when the server redirects."""

    def __init__(self, place: Place, start: int, version: object) -> None:
        from fsspec.asyn import sync

        self._sync: Callable[..., Any] = sync
        self._system, self._path = place.system, place.path
        self._began, self._received = time.monotonic(), 0
        self._response = sync(self._system.loop, self._get, start)
        headers = self._response.headers
        self.version = headers.get("ETag") or headers.get("Last-Modified")
        try:
            if start:
                _require_same(version, self.version)
            self._decompress = self._decoder()
            if self._response.status == 206:
                if not headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    raise WrongContentError("the server sends another part than it was asked for")
                return
            while start:  # the server sends all of it again
                passed = len(self.read(min(start, PART_BYTES)))
                if not passed:
                    raise WrongContentError("it has become shorter while it was read")
                start -= passed
        except BaseException:
            self.close()
            raise

    async def _get(self, start: int) -> Any:
        session = await self._system.set_session()
        ask = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        settings = {**self._system.kwargs, "headers": {**self._system.kwargs.get("headers", {}), **ask}}
        async with asyncio.timeout(SILENCE_SECONDS):  # headers could come byte by byte
            response = await session.get(self._system.encode_url(self._path), **settings)
        if response.status in (404, 410):
            response.close()
            raise FileNotFoundError(self._path)
        response.raise_for_status()
        return response

    def _decoder(self) -> Any:
        """Decompresses a body that was compressed although nobody asked for it; None for a plain one."""
        coding = self._response.headers.get("Content-Encoding", "identity").lower()
        self.size = self._response.content_length if coding == "identity" else None
        if coding == "identity":
            return None
        if coding not in ("gzip", "x-gzip") or self._response.status == 206:
            raise WrongContentError(f"the server compresses it ({coding[:20]})")
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def read(self, most: int) -> bytes:
        while True:
            if self._decompress is None:
                return self._receive(most)
            if self._decompress.eof:
                return b""
            left = self._decompress.unconsumed_tail or self._receive(PART_BYTES)
            if not left:
                raise EOFError("it ends too early")
            content: bytes = self._decompress.decompress(left, most)
            if content:
                return content

    def _receive(self, most: int) -> bytes:
        content: bytes = self._sync(self._system.loop, self._response.content.read, most)
        self._received += len(content)
        seconds = time.monotonic() - self._began
        if content and seconds > SILENCE_SECONDS and self._received < LEAST_BYTES_PER_SECOND * seconds:
            raise WrongContentError(f"{self._received:,} bytes in {seconds:.0f} s are too slow to wait for", final=True)
        return content

    def close(self) -> None:
        self._system.loop.call_soon_threadsafe(self._response.close)


def tried(act: Callable[[], T], what: str, closed: threading.Event, advice: str) -> T:
    """Call a function that reads from a URL, again after growing pauses if it fails.

    It is not called again for what would fail alike: a file that does not exist, that is too long, or that a server
    refuses, and one that arrived wrong twice in the same way.

    Args:
        what: what to name in a message.
        closed: set to end all further tries.
        advice: what to do about a failure.

    Raises UnavailableError if all tries fail.
    """
    before, tries = "", 0
    for pause in (*PAUSES, None):
        tries += 1
        try:
            return act()
        except FileNotFoundError:
            raise UnavailableError(f"{what} does not exist. {advice}") from None
        except InputError:
            raise
        except Exception as error:  # every protocol raises its own
            failure = " ".join(str(error).split()) or type(error).__name__
            status = getattr(error, "status", None)
            final = isinstance(status, int) and 300 <= status < 500 and status not in (408, 429)
            if isinstance(error, WrongContentError):
                final = error.final or failure == before
            before = failure
        if final or pause is None or closed.wait(pause):
            break
    often = f" in {tries} tries" if tries > 1 else ""
    raise UnavailableError(f"cannot fetch {what}{often}: {failure}. {advice}")


def read_all(place: Place, most: int, closed: threading.Event) -> bytes:
    """Read a whole file. Raises WrongContentError for one of more than `most` bytes, and the protocol's errors."""
    file = place.open()
    try:
        content = bytearray()
        if file.size is not None and file.size > most:
            raise WrongContentError(f"it has {file.size:,} bytes, and no more than {most:,} can be right", final=True)
        while part := file.read(PART_BYTES):
            content += part
            if len(content) > most:
                raise WrongContentError(f"it goes on after {most:,} bytes, and no more can be right", final=True)
            if closed.is_set():
                raise ConnectionAbortedError("the run has ended")
        return bytes(content)
    finally:
        file.close()


def read_url(url: str, key: str, most: int) -> bytes:
    """Read a whole file of at most `most` bytes behind a URL that a setting names.

    Raises UnavailableError if it does not exist or never arrives, InputError for a URL that cannot be opened.
    """
    place, closed = Place(url, key), threading.Event()
    return tried(lambda: read_all(place, most, closed), redacted(url), closed, ADVICE)
