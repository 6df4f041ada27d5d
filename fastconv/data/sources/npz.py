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
        """Read the array into memory. Raises InputError for a damaged file."""
        try:
            with zipfile.ZipFile(self.path) as file, file.open(self.member) as content:
                array: np.ndarray = np.lib.format.read_array(content, allow_pickle=False)
                return array
        except Exception as error:  # numpy and zipfile each raise their own
            raise damaged(self.path) from error

    def map(self, folder: Path) -> np.ndarray:
        """Read the array. A large one is copied to a temporary file in `folder`, and memory-mapped.

        Raises InputError for a damaged file, or if the temporary file cannot be written.
        """
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
            raise damaged(self.path) from error


def open_npz(path: Path) -> dict[str, NpzArray]:
    """The arrays of a .npz file by name; none of them may need unpickling. Raises InputError for another file."""
    found = {}
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                with file.open(member) as content:
                    shape, fortran_order, dtype = _read_header(content)
                if dtype.hasobject:  # a pickle could run any code
                    raise ValueError(f"{member} is an array of objects")
                found[member.removesuffix(".npy")] = NpzArray(path, member, shape, dtype, fortran_order)
    except Exception as error:  # numpy and zipfile each raise their own
        raise damaged(path) from error
    return found


def damaged(path: Path) -> InputError:
    """The error for a file that is no .npz of arrays."""
    return InputError(f"cannot read {path}: give a .npz that has arrays images and labels")


def _read_header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(content)
    return shape, fortran_order, dtype
