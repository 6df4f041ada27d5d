"""A file behind a URL as a stream of bytes, which goes on after a failure."""

import io
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from fastconv.data.download import ADVICE, MOST_UNANNOUNCED_BYTES, UnavailableError, tried
from fastconv.data.url_place import Place
from fastconv.data.url_reader import Reader
from fastconv.system.urls import redacted

T = TypeVar("T")


class UrlFile(io.RawIOBase):
    """A file behind a URL, to read from its beginning to its end. After a failure, reading goes on where it stopped.

    Args:
        url: of any protocol that fsspec supports.
        key: the setting that names it, for messages.

    Raises UnavailableError if it does not exist or never arrives, InputError for a URL that cannot be opened.
    """

    def __init__(self, url: str, key: str) -> None:
        super().__init__()
        self._place, self._url = Place(url, key), redacted(url)
        self._at = 0
        self._size: int | None = None
        self._version: object = None
        self._file: Reader | None = None
        self._ended = threading.Event()
        self._try(self._open)  # a wrong address shows at once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            content = self._try(lambda: self._read(len(view)))
            view[: len(content)] = content
        self._at += len(content)
        if self._size is None and self._at > MOST_UNANNOUNCED_BYTES:
            raise UnavailableError(
                f"{self._url} goes on after {self._at:,} bytes, and its server does not say how long it is: download it"
            )
        return len(content)

    def _try(self, act: Callable[[], T]) -> T:
        return tried(act, self._url, self._ended, ADVICE)

    def _open(self) -> Reader:
        if self._file is None:
            self._file = self._place.open(self._at, self._version)
            if self._at == 0:
                self._size, self._version = self._file.size, self._file.version
        return self._file

    def _read(self, most: int) -> bytes:
        try:
            content = self._open().read(most)
            if not content and self._size is not None and self._at < self._size:
                raise EOFError(f"it ends after {self._at:,} of {self._size:,} bytes")
        except BaseException:
            self._drop()
            raise
        return content

    def _drop(self) -> None:
        if self._file is not None:
            with suppress(Exception):
                self._file.close()
            self._file = None

    def close(self) -> None:
        self._drop()
        super().close()
