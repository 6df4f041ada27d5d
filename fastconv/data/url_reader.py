"""A file behind a URL that is being read, by HTTP or another protocol of fsspec."""

import asyncio
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastconv.data.url_place import Place

# A try ends if the server sends nothing for this many seconds, or from then on fewer bytes per second than these on
# average. A download that makes progress has no time limit.
SILENCE_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 1000
# Seconds to wait for a connection to a web server. s3fs waits for 5 s, and for 15 s for an answer.
CONNECT_SECONDS = 10.0
# Bytes to read at once, and to ask a server for at once that gives parts of a file: some of fsspec's protocols would
# hold 50 MB of each open file in memory.
PART_BYTES, BLOCK_BYTES = 2**20, 2**22
# Answers of web servers that have no such file.
ABSENT = (404, 410)
# What protocols tell about a file that differs between two versions of it.
VERSION_KEYS = ("size", "etag", "last-modified", "lastmodified", "last_modified", "mtime", "content-md5", "digest",
                "md5hash", "checksum", "generation", "updated", "versionid")  # fmt: skip
# gcsfs would read up to 256 MB of a file ahead.
READ_AHEAD = {"cache_type": "readahead"}


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


def request_timeout() -> Any:
    """The limits of aiohttp for a request: of each wait, and not of a long download."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)


def versions(about: dict[str, Any]) -> list[list[str]]:
    """The entries of a protocol's description that differ between two versions of a file: sorted (key, value)."""
    told = ((key.lower(), value) for key, value in about.items() if value is not None)
    return sorted([key, str(value)] for key, value in told if key in VERSION_KEYS)


def _require_same(before: object, now: object) -> None:
    if before != now:
        raise WrongContentError("it has changed while it was read", final=True)


def _generation(version: object) -> str | None:
    """The number by which Google's store tells the versions of a file; None elsewhere."""
    return dict(version).get("generation") if isinstance(version, list) else None


class StoreFile:
    """A file of a protocol other than HTTP."""

    def __init__(self, place: "Place", start: int, version: object) -> None:
        self._place = place
        more = READ_AHEAD if place.in_object_store else {}
        self._file = place.system.open(place.path, "rb", block_size=BLOCK_BYTES, **more)
        size, about = getattr(self._file, "size", None), getattr(self._file, "details", None)
        self.size = size if isinstance(size, int) else None
        self.version = versions(about) if isinstance(about, dict) else self.size
        # gcsfs reads each part from the generation that is there then; s3fs refuses another one.
        self._generation = _generation(self.version)
        if start:
            _require_same(version, self.version)
            self._file.seek(start)

    def read(self, most: int) -> bytes:
        content: bytes = self._file.read(most)
        if not content and self._generation:
            _require_same(self._generation, _generation(self._place.about()))
        return content

    def close(self) -> None:
        self._file.close()


class HttpFile:
    """The body of an answer over HTTP, as it comes. Only http and https are followed when the server redirects."""

    def __init__(self, place: "Place", start: int, version: object) -> None:
        from fsspec.asyn import sync

        self._sync: Callable[..., Any] = sync
        self._system, self._path = place.system, place.path
        self._waited, self._received = 0.0, 0
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
        if response.status in ABSENT:
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
        began = time.monotonic()
        content: bytes = self._sync(self._system.loop, self._response.content.read, most)
        self._received += len(content)
        self._waited += time.monotonic() - began  # and not the time that its reader takes
        seconds = self._waited
        if content and seconds > SILENCE_SECONDS and self._received < LEAST_BYTES_PER_SECOND * seconds:
            raise WrongContentError(f"{self._received:,} bytes in {seconds:.0f} s are too slow to wait for", final=True)
        return content

    def close(self) -> None:
        self._system.loop.call_soon_threadsafe(self._response.close)
