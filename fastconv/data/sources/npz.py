"""Reads .npz files: shapes at once, and arrays only when they are needed, without holding large ones in memory."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fastconv.data.sources.spool import Spool
from fastconv.system.errors import InputError

# Arrays of more bytes are memory-mapped, copied in parts of this size.
LARGE_BYTES, COPIED_BYTES = 16 * 2**20, 2**20


@dataclass(frozen=True)
class NpzArray:
    """An array of a .npz file that has not been read yet."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def read(self) -> np.ndarray:
        """Read the array into memory. Raises InputError for a damaged file, and for an array of Python objects."""
        self._require_plain()
        try:
            with zipfile.ZipFile(self.path) as file, file.open(self.member) as content:
                array: np.ndarray = np.lib.format.read_array(content, allow_pickle=False)
                return array
        except Exception as error:  # numpy and zipfile each raise their own
            raise self._damaged(error) from error

    def map(self, folder: Path) -> np.ndarray:
        """Read the array. A large one is copied to a temporary file in `folder`, and memory-mapped.

        Raises InputError for a damaged file, for an array of Python objects, and if the temporary file cannot be
        written.
        """
        self._require_plain()
        if int(np.prod(self.shape)) * self.dtype.itemsize <= LARGE_BYTES:
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

    def _require_plain(self) -> None:
        if self.dtype.hasobject:  # a pickle could run any code
            key = _key(self.member)
            raise InputError(
                f"{self.path} has {key} of Python objects, which are never unpickled: store numbers or texts, such as"
                f" np.stack({key}) or {key}.astype(str)"
            )

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"cannot read {_key(self.member)} of {self.path}: {' '.join(str(error).split())}")


def open_npz(path: Path) -> dict[str, NpzArray]:
    """The arrays of a .npz file by name. Raises InputError for another file."""
    found = {}
    try:
        with path.open("rb") as plain:
            single = plain.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                if member.endswith(".npy"):
                    with file.open(member) as content:
                        found[_key(member)] = NpzArray(path, member, *_read_header(content))
    except Exception as error:  # numpy and zipfile each raise their own
        if isinstance(error, zipfile.BadZipFile) and single:
            raise InputError(f"{path} is a single array: give a .npz that has arrays images and labels") from error
        raise InputError(f"cannot read {path}: give a .npz that has arrays images and labels") from error
    return found


def _key(member: str) -> str:
    return member.removesuffix(".npy")


def _read_header(content: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, bool]:
    """The shape of an array, its dtype, and whether its first axis is the fastest."""
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(content)
    return shape, dtype, fortran_order
