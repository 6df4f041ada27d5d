"""A temporary file for what is read from a source once and needed again, so that it need not stay in memory."""

import os
import tempfile
import threading
from array import array
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from fastconv.data.sources.decode import LazySamples, Sample
from fastconv.system.files import unwritable


class Spool:
    """A file without a name in `folder`; the system removes it when it is closed, even by a kill.

    Raises InputError if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise unwritable(folder, error) from error
        self._size = 0
        self._reading = threading.Lock()

    def add(self, content: bytes) -> range:
        """Append bytes, and return the offsets at which they lie."""
        start = self._size
        try:
            self._file.write(content)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._size += len(content)
        return range(start, self._size)

    def finish(self) -> None:
        """Write what is buffered, before the first `read`."""
        try:
            self._file.flush()
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the file; several threads may read."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, start)
        with self._reading:  # Windows has but one place to read at, which threads would move
            self._file.seek(start)
            return self._file.read(size)

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """All of the file as an array, memory-mapped."""
        return np.memmap(self._file, dtype, "r", shape=shape)


class SpooledSamples(LazySamples):
    """Samples whose content lies in a spool. `labels` are as the source has them; `numbers` gives the class of each,
    and is to be filled before the samples are used.

    Args:
        found: (name, label, content) of each; a range is the place of content that the spool has already.
    """

    def __init__(self, spool: Spool, found: Iterable[tuple[str, str, bytes | range]], numbers: dict[str, int]) -> None:
        self._spool, self._numbers = spool, numbers
        self._names: list[str] = []
        self._starts, self._sizes = array("q"), array("q")
        self.labels: list[str] = []
        once: dict[str, str] = {}  # equal labels are one object
        for name, label, content in found:
            self._names.append(name)
            self.labels.append(once.setdefault(label, label))
            place = content if isinstance(content, range) else spool.add(content)
            self._starts.append(place.start)
            self._sizes.append(len(place))
        spool.finish()

    def __len__(self) -> int:
        return len(self._names)

    def sample(self, at: int) -> Sample:
        """The sample at a place, counted from 0."""
        read = partial(self._spool.read, self._starts[at], self._sizes[at])
        return Sample(self._names[at], self._numbers[self.labels[at]], read)
