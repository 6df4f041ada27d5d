"""Tar shards in WebDataset's layout, written in one pass with their checksum and read as memory maps without copies.

A member pair `<key>.x.npy` (uint8 [B, H, W, C]) and `<key>.y.npy` (int64 [B]) holds one block of samples. The same
arrays give the same bytes: tar times, owners and modes are fixed.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastconv.system.errors import StreamError
from fastconv.system.files import replacing

# Bytes that a .npy file of ours may have beside its values: its header, which numpy fills up to a multiple of 64.
NPY_HEADER = range(64, 513)


@dataclass(frozen=True)
class Block:
    """A block as its stream defines it: the key of its two members, the shape [B, H, W, C] of its images, and the
    number of classes."""

    key: str
    shape: tuple[int, int, int, int]
    classes: int

    @property
    def members(self) -> list[tuple[str, type[np.generic], tuple[int, ...]]]:
        """Name, dtype and shape of the members of a shard that hold the block, in their order."""
        return [(f"{self.key}.x.npy", np.uint8, self.shape), (f"{self.key}.y.npy", np.int64, self.shape[:1])]


def possible_bytes(blocks: Sequence[Block]) -> range:
    """The sizes in bytes that a shard of these blocks can have."""
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for block in blocks for _, dtype, shape in block.members]
    least, most = (
        sum(tarfile.BLOCKSIZE + _padded(header + size) for size in sizes) + 2 * tarfile.BLOCKSIZE
        for header in (NPY_HEADER[0], NPY_HEADER[-1])
    )
    return range(least, most + 1)


def _padded(size: int) -> int:
    """The bytes that a member of a tar takes beside its header."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


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
    digest = hashlib.sha256()
    samples = size = 0
    with replacing(path) as partial, partial.open("wb") as file:

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

    Nothing that the file says of itself is followed: its members must have the names, the order, the dtypes and the
    shapes that the stream defines, and labels must be of its classes.

    Args:
        blocks: the blocks that the shard holds.
        verify: compare the file's sha256 with the manifest's, not only its size.

    Raises StreamError for a file that does not match the manifest or the blocks.
    """

    def __init__(self, path: Path, entry: ShardEntry, blocks: Sequence[Block], verify: bool = True) -> None:
        check_shard(path, entry, digest=verify)
        # Copy-on-write: writes do not reach the file, and torch uses the arrays without a copy.
        self._arrays = read_blocks(np.asarray(np.memmap(path, np.uint8, mode="c")), blocks, path)
        self._path, self._blocks = path, blocks

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [B, H, W, C] and labels int64 [B] of a block. Do not write to them."""
        images, labels = self._arrays[index]
        _check_labels(labels, self._blocks[index], self._path)
        return images, labels


def check_blocks(content: bytes | NDArray[np.uint8], blocks: Sequence[Block], place: Path | str) -> None:
    """Raise StreamError, naming `place`, unless the bytes are a shard with these blocks and labels of their classes."""
    for (_, labels), block in zip(read_blocks(np.frombuffer(content, np.uint8), blocks, place), blocks, strict=True):
        _check_labels(labels, block, place)


def read_blocks(
    content: NDArray[np.uint8], blocks: Sequence[Block], place: Path | str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Views of the images uint8 [B, H, W, C] and labels int64 [B] of all blocks in the bytes of a shard, uint8 [N].

    Raises StreamError, naming `place`, for bytes that are not a shard with these blocks.
    """
    arrays, at = [], 0
    try:
        for name, dtype, shape in (member for block in blocks for member in block.members):
            member = tarfile.TarInfo.frombuf(content[at : at + tarfile.BLOCKSIZE].tobytes(), "utf-8", "strict")
            at += tarfile.BLOCKSIZE
            if member.name != name or not member.isreg() or not 0 <= member.size <= len(content) - at:
                raise ValueError(f"there is {member.name} of {member.size} bytes in place of {name}")
            arrays.append(_array(content[at : at + member.size], np.dtype(dtype), shape))
            at += _padded(member.size)
    except Exception as error:  # tarfile and numpy fail in many ways on damaged bytes
        raise StreamError(f"{place} was altered: it is no shard of this stream") from error
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _array(content: NDArray[np.uint8], dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """View the bytes of a .npy file as the array that it must hold. Raises ValueError for any other."""
    size = int(np.prod(shape)) * dtype.itemsize
    header = io.BytesIO(content[: NPY_HEADER[-1]].tobytes())
    version = np.lib.format.read_magic(header)
    found, is_fortran, kind = np.lib.format.read_array_header_1_0(header)
    # In one dimension, both orders are the same bytes.
    if (version, found, kind) != ((1, 0), shape, dtype) or (is_fortran and len(shape) > 1):
        raise ValueError(f"an array of {kind} {found} in place of {dtype} {shape}")
    if len(content) != header.tell() + size:
        raise ValueError(f"{len(content)} bytes in place of {header.tell() + size}")
    return content[header.tell() :].view(dtype).reshape(shape)


def _check_labels(labels: np.ndarray, block: Block, place: Path | str) -> None:
    """Raise StreamError unless all labels are numbers of classes: others would index past a network's output."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < block.classes):
        raise StreamError(
            f"{place} was altered: it has labels from {labels.min()} to {labels.max()}, and this stream has"
            f" {block.classes} classes"
        )
