"""An address of a file: opened to read from any of its bytes on, or written whole, by any protocol of fsspec."""

import itertools
import re
from contextlib import suppress
from pathlib import Path
from types import MethodType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fastconv.data.url_reader import ABSENT, HttpFile, Reader, StoreFile, request_timeout, versions
from fastconv.system.errors import InputError, message_of
from fastconv.system.urls import redacted, require_whole

# fastconv's extras that install what fsspec needs for a protocol.
EXTRAS = {"s3": ("s3", "s3a"), "gcs": ("gs", "gcs")}
# botocore tries a request five times, and s3fs does so again: with the five tries of `download.tried`, a store that
# fails would be asked a hundred times. `config_kwargs` in a user's configuration of fsspec go before these.
S3_TRIES = {"retries": {"total_max_attempts": 1}}
# What is before the path of an address of these stores, which may be the last one of a chain, as zip://a::s3://bucket/b.
BUCKET = re.compile(rf"(?:^|::)(?:{'|'.join(itertools.chain(*EXTRAS.values()))})://([^/]*)", re.IGNORECASE)
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}


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
        _require_no_keys(url, key)
        protocol = url.partition("://")[0].rpartition("::")[2].lower()
        self.is_http = url.lower().startswith(("http://", "https://"))
        options: dict[str, Any] = {}
        if self.is_http:
            # Proxies are used, as for other downloads. Bodies are decompressed here, where the bytes are counted.
            options["client_kwargs"] = {"timeout": request_timeout(), "trust_env": True, "auto_decompress": False}
        elif protocol in EXTRAS["s3"] and "::" not in url:
            options["config_kwargs"] = S3_TRIES | conf.get(protocol, {}).get("config_kwargs", {})
        elif protocol in EXTRAS["gcs"] and "::" not in url:
            options["requests_timeout"] = conf.get(protocol, {}).get("requests_timeout") or request_timeout()
        try:
            self.system, self.path = url_to_fs(url, **options)
        except ImportError as error:
            extra = next((name for name, protocols in EXTRAS.items() if protocol in protocols), None)
            advice = f"pip install 'fastconv[{extra}]'" if extra else f"Set {key} to another address or to a folder"
            raise InputError(f"cannot open {redacted(url)}: {error}. {advice}") from None
        except Exception as error:  # every protocol raises its own, and some connect already
            why = redacted(message_of(error, 200))
            raise InputError(
                f"cannot open {redacted(url)}: {why}. Set {key} to another address or to a folder"
            ) from None
        _ask_once(self.system)

    def about(self) -> list[list[str]]:
        """The entries of the server's description that differ between two versions of the file: sorted (key, value).

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

    def remove(self) -> None:
        """Remove the file, and its folder if that is empty then. Raises the errors of the protocol."""
        self.system.rm_file(self.path)
        if not self.in_object_store:
            with suppress(Exception):  # a folder that is not empty; every protocol raises its own
                self.system.rmdir(self.system._parent(self.path))

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
        return HttpFile(self, start, version) if self.is_http else StoreFile(self, start, version)


def _require_no_keys(url: str, key: str) -> None:
    """Raise InputError for an address of a bucket with keys before its name, also at the end of a chain of addresses.

    s3fs and gcsfs would take them for the name, and show it.
    """
    if any(re.search("^(?!arn:).*:|@", bucket) for bucket in BUCKET.findall(url)):
        raise InputError(
            f"{key}={redacted(url)} has more than a bucket's name before its path: give keys in the environment"
            " variables of your store, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _ask_once(system: Any) -> None:
    """Keep s3fs and gcsfs from making a request that has failed again by themselves: `download.tried` does."""
    protocols = {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}
    if protocols & {*EXTRAS["s3"]}:
        system.retries = 1  # around botocore's own
    # gcsfs makes it six times in half a minute, with a traceback in the log, and has no setting for that.
    elif protocols & {*EXTRAS["gcs"]} and (once := getattr(type(system)._request, "__wrapped__", None)):
        system._request = MethodType(once, system)


def below(url: str, name: str) -> str:
    """The URL of a file below the folder that a URL names; a query of a web server's URL stays at its end."""
    if not re.match(r"(\w+::)*https?://", url, re.IGNORECASE):  # a name in a store may have ? and # in it
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
