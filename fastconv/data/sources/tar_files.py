"""The files in a tar, on disk or behind a URL, read one after the other and never unpacked to disk."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from fastconv.system.errors import InputError

# Members with notes about the tar, by webdataset's convention.
NOTES = re.compile(r"__[^/]*__($|/)")


def tar_files(url: str, key: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield (name, content) of each file of a tar, which may be compressed; the content of a link is None.

    Tars that were put one behind the other into one file are read as one.

    Args:
        url: a path, or a URL of any protocol that fsspec supports.
        key: the setting that names it, for messages.

    Raises InputError for a tar that cannot be read, or names a file outside of it.
    """
    import fsspec

    try:
        with (
            fsspec.open(url, "rb") as file,
            tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member, ignore_zeros=True) as tar,
        ):
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all headers
                if NOTES.match(member.name) or not (member.isreg() or member.issym() or member.islnk()):
                    continue
                if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                    raise InputError(
                        f"{url} has an entry that leads out of it, {member.name[:80]}: do not use this file ({key})"
                    )
                content = tar.extractfile(member) if member.isreg() else None
                yield member.name, None if content is None else content.read()
    except InputError:
        raise
    except Exception as error:  # every protocol, and tarfile, raises its own
        raise InputError(f"cannot read {url}: {' '.join(str(error).split()) or type(error).__name__}") from error


class _Member(tarfile.TarInfo):
    """A member after which a broken header is an error. tarfile takes one for the end, and the rest would be lost."""

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> "_Member":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.at_end = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if getattr(tarfile_, "at_end", False):  # what follows the end of a tar need not be one
                raise
            raise tarfile.ReadError(f"broken after {tarfile_.offset:,} bytes") from error
