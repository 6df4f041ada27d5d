"""Reads checkpoints, which somebody else may have written: plain values, and no more of them than the file holds."""

import io
import zipfile
from pathlib import Path
from typing import Any

from fastconv.system.errors import InputError
from fastconv.system.files import require_regular

# Bytes of the containers of a checkpoint, and its number of tensors: no run of ours comes near.
MOST_BYTES, MOST_MEMBERS = 2**28, 100_000


def load_checkpoint(path: Path | io.BytesIO, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU. No code in it runs, and it takes no more memory than the file is large.

    Args:
        path: the file, in torch's zip format, or its content.
        mmap: map the tensors instead of reading them.

    Raises OSError if it cannot be read, InputError for anything else than a checkpoint of plain values.
    """
    import torch

    if isinstance(path, Path):
        require_regular(path)
        _require_plain(path, path.stat().st_size)
    else:
        _require_plain(path, path.getbuffer().nbytes)
        path.seek(0)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # torch and pickle raise many kinds
        raise InputError("it holds more than plain values, or is damaged") from error
    if not isinstance(content, dict):
        raise InputError(f"it holds a {type(content).__name__}")
    return content


def _require_plain(path: Path | io.BytesIO, size: int) -> None:
    """Raise InputError for a zip that could unpack to more than its size, or whose pickle could fill the memory."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > size:
                raise InputError("it would unpack to more than its size")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise InputError("it is compressed, which torch's checkpoints are not")
            for member in members:
                if member.filename.endswith("data.pkl"):
                    if member.file_size > MOST_BYTES:
                        raise InputError(f"its containers take {member.file_size / 1e6:,.0f} MB")
                    if b"\nbytearray\n" in file.read(member):  # of any size, which torch would allocate
                        raise InputError("it holds a bytearray")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError("it is not in torch's format, or is damaged") from error
