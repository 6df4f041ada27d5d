"""An address of a file: opened to read from any of its bytes on, or written whole, by any protocol of fsspec."""

import asyncio
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from fastconv.system.errors import InputError
from fastconv.system.urls import redacted, require_whole

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
# fastconv's extras that install what fsspec needs for a protocol.
EXTRAS = {"s3": ("s3", "s3a"), "gcs": ("gs", "gcs")}
# botocore tries a request five times, and s3fs does so again: with the five tries of `download.tried`, a store that
# fails would be asked a hundred times. `config_kwargs` in a user's configuration of fsspec go before these.
S3_TRIES = {"retries": {"total_max_attempts": 1}}
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
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


class Place:
    """An address: a file system of fsspec, and a path in it.

    Args:
        url: of any protocol that fsspec supports.
        key: the setting that names it, for messages.

    Raises InputError for a URL that cannot be opened.
    """

    def __init__(self, url: str, key: str) -> None:
        from fsspec.config import conf
        from fsspec.core import url_to_fs

        require_whole(url, key)
        protocol = url.partition("://")[0].rpartition("::")[2].lower()
        self.is_http = url.lower().startswith(("http://", "https://"))
        options: dict[str, Any] = {}
        if self.is_http:
            # Proxies are used, as for other downloads. Bodies are decompressed here, where the bytes are counted.
            options["client_kwargs"] = {"timeout": _timeout(), "trust_env": True, "auto_decompress": False}
        elif protocol in EXTRAS["s3"] and "::" not in url:
            options["config_kwargs"] = S3_TRIES | conf.get(protocol, {}).get("config_kwargs", {})
        elif protocol in EXTRAS["gcs"] and "::" not in url:
            options["requests_timeout"] = conf.get(protocol, {}).get("requests_timeout") or _timeout()
        try:
            self.system, self.path = url_to_fs(url, **options)
        except ImportError as error:
            extra = next((name for name, protocols in EXTRAS.items() if protocol in protocols), None)
            advice = f"pip install 'fastconv[{extra}]'" if extra else f"Set {key} to another address or to a folder"
            raise InputError(f"cannot open {redacted(url)}: {error}. {advice}") from None
        except Exception as error:  # every protocol raises its own, and some connect already
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"cannot open {redacted(url)}: {redacted(why)}. Set {key} to another address or to a folder"
            ) from None
        _ask_once(self.system)
        bucket = url.rpartition("://")[2].partition("/")[0]
        if protocol in (*EXTRAS["s3"], *EXTRAS["gcs"]) and re.search("^(?!arn:).*:|@", bucket):
            raise InputError(
                f"{key}={redacted(url)} has more than a bucket's name before its path: give keys in the environment"
                " variables of your store, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    def about(self) -> list[list[str]]:
        """What the server says now of the file that differs between two versions of it: sorted (key, value).

        Raises the errors of the protocol.
        """
        self.system.invalidate_cache()  # it may remember what it listed before
        try:
            return versions(self.system.info(self.path))
        except FileNotFoundError as error:
            cause: Any = error.__cause__
            # fsspec's HTTP says so of all that fails.
            if self.is_http and cause is not None and getattr(cause, "status", None) not in ABSENT:
                raise cause from None
            raise

    def put(self, path: Path) -> None:
        """Send a file of this machine. Raises the errors of the protocol."""
        self._make_folder()
        self.system.put_file(str(path), self.path)

    def write(self, content: bytes) -> None:
        """Send bytes. Raises the errors of the protocol."""
        self._make_folder()
        self.system.pipe_file(self.path, content)

    @property
    def in_object_store(self) -> bool:
        """Whether it is in a store that has no folders."""
        protocol = self.system.protocol
        return not OBJECT_STORES.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def _make_folder(self) -> None:
        """Make the folder of the file. In an object store, a bucket would be made."""
        if not self.in_object_store:
            self.system.makedirs(self.system._parent(self.path), exist_ok=True)

    def open(self, start: int = 0, version: object = None) -> Reader:
        """Open the file to read it from byte `start` on, if it still has the `version` of its beginning.

        Raises WrongContentError for another version, and the errors of the protocol.
        """
        return _HttpFile(self, start, version) if self.is_http else _File(self, start, version)


def _timeout() -> Any:
    """The limits of aiohttp for a request: of each wait, and not of a long download."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)


def _ask_once(system: Any) -> None:
    """Keep s3fs and gcsfs from making a request that has failed again by themselves: `download.tried` does."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}
    if protocols & {*EXTRAS["s3"]}:
        system.retries = 1  # around botocore's own
    # gcsfs makes it six times in half a minute, with a traceback in the log, and has no setting for that.
    elif protocols & {*EXTRAS["gcs"]} and (once := getattr(type(system)._request, "__wrapped__", None)):
        system._request = MethodType(once, system)


def versions(about: dict[str, Any]) -> list[list[str]]:
    """What of a protocol's description of a file differs between two versions of it: sorted (key, value)."""
    told = ((key.lower(), value) for key, value in about.items() if value is not None)
    return sorted([key, str(value)] for key, value in told if key in VERSION_KEYS)


def below(url: str, name: str) -> str:
    """The URL of a file below the folder that a URL names; a query of a web server's URL stays at its end."""
    if not re.match(r"(\w+::)*https?://", url, re.IGNORECASE):  # a name in a store may have ? and # in it
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _require_same(before: object, now: object) -> None:
    if before != now:
        raise WrongContentError("it has changed while it was read", final=True)


class _File:
    """A file of a protocol other than HTTP."""

    def __init__(self, place: Place, start: int, version: object) -> None:
        self._place = place
        more = READ_AHEAD if place.in_object_store else {}
        self._file = place.system.open(place.path, "rb", block_size=BLOCK_BYTES, **more)
        size, about = getattr(self._file, "size", None), getattr(self._file, "details", None)
        self.size = size if isinstance(size, int) else None
        self.version = versions(about) if isinstance(about, dict) else self.size
        # gcsfs reads each part from the generation that is there then; s3fs refuses another one.
        self._generation = about.get("generation") if isinstance(about, dict) else None
        if start:
            _require_same(version, self.version)
            self._file.seek(start)

    def read(self, most: int) -> bytes:
        content: bytes = self._file.read(most)
        if not content and self._generation:
            _require_same(self._generation, dict(self._place.about()).get("generation"))
        return content

    def close(self) -> None:
        self._file.close()


class _HttpFile:
    """The body of an answer over HTTP, as it comes. Only http and https are followed when the server redirects."""

    def __init__(self, place: Place, start: int, version: object) -> None:
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
