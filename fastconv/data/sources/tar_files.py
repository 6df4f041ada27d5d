"""The files in a tar, on disk or behind a URL, read one after the other and never unpacked to disk."""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fastconv.data.sources.unpacking import FREE_BYTES, MOST_RATIO
from fastconv.data.url_file import UrlFile
from fastconv.system.errors import InputError, message_of
from fastconv.system.files import require_regular
from fastconv.system.urls import redacted

# A larger file is not an image: a photograph of 151 million pixels has 0.45 GB without any compression.
MOST_FILE_BYTES = 2**29
# The headers of one file, such as a long name.
MOST_HEADER_BYTES = 2**20
# Blocks of zeros between two tars in one file; an archive is filled up to some kB with them.
MOST_ZERO_BLOCKS = 2**24 // tarfile.BLOCKSIZE
BUFFER_BYTES = 2**20
# Members with notes about the tar, by webdataset's convention.
NOTES = re.compile(r"__[^/]*__($|/)")
HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
           tarfile.GNUTYPE_LONGLINK)  # fmt: skip


def tar_files(url: str, key: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, content) of each file of a tar, which may be compressed; the content of a link is None.

    Tars that were put one behind the other into one file are read as one. Devices and folders are passed over.

    Args:
        url: a path, or a URL of any protocol that fsspec supports.
        key: the setting that names it, for messages.

    Raises InputError for a tar that cannot be read, names a file outside of it, or is made to fill the memory.
    """
    place = redacted(url)
    try:
        with _open(url, key) as file:
            counted: Any = _Counted(file)
            opened: Any = tarfile.open(fileobj=counted, mode="r|*", tarinfo=_Member, ignore_zeros=True)  # noqa: SIM115 - closed below
            unpacked = 0
            with opened as tar:
                for member in tar:
                    tar.members = []  # it would keep all headers
                    if NOTES.match(member.name) or not (member.isreg() or member.issym() or member.islnk()):
                        continue
                    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                        name = member.name[:80]
                        raise InputError(
                            f"{place} has an entry that leads out of it, {name}: do not use this file ({key})"
                        )
                    content = _content(tar, member) if member.isreg() else None
                    unpacked += len(content or b"")
                    if unpacked > FREE_BYTES + MOST_RATIO * counted.bytes:
                        raise ValueError(f"{counted.bytes:,} bytes unpack to {unpacked:,}, to fill the memory")
                    yield member.name, content
    except InputError:
        raise
    except Exception as error:  # every protocol, and tarfile, raises its own
        raise InputError(f"cannot read {place}, which must be a tar: {message_of(error, 200)}") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not 0 <= member.size <= MOST_FILE_BYTES:
        raise ValueError(f"{member.name[:80]} has {member.size:,} bytes, which no image has")
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _open(url: str, key: str) -> IO[bytes]:
    if "://" in url:
        return io.BufferedReader(UrlFile(url, key), BUFFER_BYTES)
    require_regular(Path(url))
    return Path(url).open("rb")


class _Counted:
    """A file that counts the bytes that are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.bytes = file, 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.bytes += len(content)
        return content


class _Member(tarfile.TarInfo):
    """A member after which a broken header is an error, and whose headers have a limit.

    tarfile takes a broken header for the end, so that the rest would be lost. It reads the headers of a member into
    memory, whatever size they claim.
    """

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> "_Member":
        try:
            found = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.at_end = getattr(tarfile_, "at_end", 0) + 1
            if tarfile_.at_end > MOST_ZERO_BLOCKS:
                raise tarfile.ReadError("it goes on with zeros") from None
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if getattr(tarfile_, "at_end", 0):  # what follows the end of a tar need not be one
                raise
            raise tarfile.ReadError(f"broken after {tarfile_.offset:,} bytes") from error
        return found

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in HEADERS and member.size > MOST_HEADER_BYTES):
            raise ValueError(f"it has a header of {member.size:,} bytes")
        return member
