"""Tar shards in WebDataset's layout, written in one pass with their checksum and read as memory maps without copies.

A member pair `<key>.x.npy` (uint8 [B, H, W, C]) and `<key>.y.npy` (int64 [B]) holds one block of samples. The same
arrays give the same bytes: tar times, owners and modes are fixed.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.system.errors import StreamError
from fastconv.system.files import unwritable


@dataclass(frozen=True)
class ShardEntry:
    """A shard's entry in the manifest: its number of samples, its size in bytes and its sha256."""

    samples: int
    bytes: int
    sha256: str


def write_shard(path: Path, blocks: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> ShardEntry:
    """Write blocks (key, images, labels) to a tar that appears under its name only when it is complete.

    Raises InputError, and leaves no file behind, if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    samples = size = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:

            def put(data: bytes) -> None:
                nonlocal size
                file.write(data)
                digest.update(data)
                size += len(data)

            for key, images, labels in blocks:
                for suffix, array in (("x.npy", images), ("y.npy", labels)):
                    payload = npy_bytes(array)
                    # tarfile's own writer copies in 10 KB pieces; writing header and payload directly is twice as fast.
                    put(tar_header(f"{key}.{suffix}", len(payload)))
                    put(payload)
                    put(bytes(-len(payload) % tarfile.BLOCKSIZE))
                samples += len(labels)
            put(bytes(2 * tarfile.BLOCKSIZE))
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)
    return ShardEntry(samples, size, digest.hexdigest())


def npy_bytes(array: np.ndarray) -> bytes:
    """The array in numpy's file format."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def tar_header(name: str, size: int) -> bytes:
    """The header of a tar member, with fixed time, owner and mode."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def check_shard(path: Path, entry: ShardEntry, digest: bool = True) -> None:
    """Raise StreamError unless the file has the size and, if `digest` is set, the sha256 of its manifest entry."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise StreamError(f"{path} has {size} bytes instead of {entry.bytes}: it was cut off or replaced")
        if not digest:
            return
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise StreamError(f"{path} is missing") from None
    except OSError as error:
        raise StreamError(f"{path} cannot be read: {error.strerror}") from error
    if found != entry.sha256:
        raise StreamError(f"{path} was altered: its sha256 is not the manifest's")


class Shard:
    """One shard, checked and memory-mapped; `block(i)` returns views of the file's bytes.

    Raises StreamError for a file that does not match the manifest. Without `verify` only its size is compared; then
    damage that shows while reading raises StreamError too.
    """

    def __init__(self, path: Path, entry: ShardEntry, verify: bool = True) -> None:
        check_shard(path, entry, digest=verify)
        self._path = path
        # Copy-on-write: writes do not reach the file, and torch uses the arrays without a copy.
        self._bytes = np.memmap(path, np.uint8, mode="c")
        with self._sense(), tarfile.open(path, "r:") as tar:
            self._offsets = [member.offset_data for member in tar]

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [B, H, W, C] and labels int64 [B] of a block. Do not write to them."""
        with self._sense():
            images, labels = self._array(2 * index), self._array(2 * index + 1)
            if labels.shape != images.shape[:1]:
                raise ValueError(f"{labels.shape} labels of {images.shape} images")
        return images, labels

    def _array(self, member: int) -> np.ndarray:
        start = self._offsets[member]
        # A numpy header of our arrays is under 512 bytes; the data follows it.
        header = io.BytesIO(self._bytes[start : start + 512].tobytes())
        np.lib.format.read_magic(header)
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
        return np.ndarray(shape, dtype, buffer=self._bytes, offset=start + header.tell())

    @contextmanager
    def _sense(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tarfile and numpy fail in many ways on damaged bytes
            raise StreamError(f"{self._path} was altered: it is no shard") from error
