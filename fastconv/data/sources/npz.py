"""Reads .npz files: shapes at once, and arrays only when they are needed, without holding large ones in memory.

Nothing that a file says of its size is believed: an array must have the bytes that its shape needs, and must not unpack
to a multiple of the file that arrays of images never reach.
"""

import io
import math
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fastconv.data.sources.spool import Spool
from fastconv.data.sources.unpacking import FREE_BYTES, MOST_RATIO
from fastconv.system.errors import InputError, message_of
from fastconv.system.wording import counted

# Arrays of more bytes are memory-mapped, copied in parts of this size.
LARGE_BYTES, COPIED_BYTES = 16 * 2**20, 2**20
# numpy refuses longer headers too, once it has read them. A file of more arrays has one for each image.
MOST_HEADER_BYTES, MOST_ARRAYS = 10_000, 1000


@dataclass(frozen=True)
class NpzArray:
    """An array of a .npz file that has not been read yet. `packed` are the bytes of the file that hold it, and
    `unpacked` those that they say they unpack to, without the header."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    packed: int
    unpacked: int

    @property
    def count(self) -> int:
        """The length of its first axis."""
        return self.shape[0] if self.shape else 0

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def read(self) -> np.ndarray:
        """Read the array into memory. Raises InputError for a damaged file, for an array of Python objects, and for one
        that is made to fill the memory."""
        self.require_plain()
        try:
            with zipfile.ZipFile(self.path) as file, file.open(self.member) as content:
                array: np.ndarray = np.lib.format.read_array(content, allow_pickle=False)
                return array
        except Exception as error:  # numpy and zipfile each raise their own
            raise self._damaged(error) from error

    def map(self, folder: Path) -> np.ndarray:
        """Read the images of an array. A large one is copied to a temporary file in `folder`, and memory-mapped.

        Raises InputError as `read` does, and if the temporary file cannot be written.
        """
        self.require_plain()
        if self.unpacked <= LARGE_BYTES:
            return self.read()
        try:
            with zipfile.ZipFile(self.path) as file, file.open(self.member) as content:
                _read_header(content)
                spool = Spool(folder)
                while part := content.read(COPIED_BYTES):
                    spool.add(part)
            spool.finish()
            array = spool.array(self.shape[::-1] if self.fortran_order else self.shape, self.dtype)
            return array.T if self.fortran_order else array
        except InputError:
            raise
        except Exception as error:
            raise self._damaged(error) from error

    def require_plain(self, least: int = 0) -> None:
        """Raise InputError for an array that cannot be read safely; in memory, it takes `least` bytes or more."""
        key = _key(self.member)
        if self.dtype.hasobject:  # a pickle could run any code
            raise InputError(
                f"{self.path} has {key} of Python objects, which are never unpickled: store numbers or texts, such as"
                f" np.stack({key}) or {key}.astype(str)"
            )
        if min(self.shape, default=0) < 0 or self.unpacked != math.prod(self.shape) * self.dtype.itemsize:
            raise InputError(
                f"{self.path} is damaged: {key} should be {self.dtype} {'x'.join(map(str, self.shape))}, and has"
                f" {self.unpacked:,} bytes"
            )
        if max(self.unpacked, least) > FREE_BYTES + MOST_RATIO * self.packed:
            raise InputError(
                f"{self.path} has {key} of {self.unpacked:,} bytes in {self.packed:,}, which would fill the memory: if"
                " it is yours, store it with np.savez"
            )

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"cannot read {_key(self.member)} of {self.path}: {message_of(error)}")


def open_npz(path: Path) -> dict[str, NpzArray]:
    """The arrays of a .npz file by name. Raises InputError for another file."""
    wanted = "give a .npz that has arrays images and labels"
    try:
        with path.open("rb") as plain:
            single = plain.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        with zipfile.ZipFile(path) as file:
            members = [member for member in file.infolist() if member.filename.endswith(".npy")]
            if len(members) > MOST_ARRAYS:
                raise InputError(f"{path} has {counted(len(members), 'array')}: {wanted}")
            if twice := [name for name, count in Counter(each.filename for each in members).items() if count > 1]:
                raise InputError(f"{path} has {_key(twice[0])} twice: {wanted}")
            return {_key(member.filename): _open(path, file, member) for member in members}
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile each raise their own
        if isinstance(error, zipfile.BadZipFile) and single:
            raise InputError(f"{path} is a single array: {wanted}") from error
        raise InputError(f"cannot read {path}: {wanted}") from error


def _open(path: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> NpzArray:
    """An array of an open file. Raises InputError for one that is encrypted, damaged or packed in an unknown way."""
    try:
        with file.open(member) as content:
            header = _read_header(content)
            unpacked = member.file_size - content.tell()
        return NpzArray(path, member.filename, *header, min(member.compress_size, path.stat().st_size), unpacked)
    except Exception as error:  # numpy and zipfile each raise their own
        why = "it is encrypted" if member.flag_bits & 1 else message_of(error, 200)
        raise InputError(
            f"cannot read {member.filename[:200]} of {path} ({why}): store arrays images and labels with np.savez"
        ) from error


def _key(member: str) -> str:
    return member.removesuffix(".npy")


def _read_header(content: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """The shape of an array, its dtype, and whether its first axis is the fastest.

    Raises ValueError for what is not a header, before it is read if it is too long.
    """
    version = np.lib.format.read_magic(content)
    size = content.read(2 if version == (1, 0) else 4)
    if (length := int.from_bytes(size, "little")) > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(io.BytesIO(size + content.read(length)))
    return shape, dtype, fortran_order
