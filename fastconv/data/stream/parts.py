"""Several processes that write one stream together, each some of its epochs.

Each has a lock and a manifest of its own, which goes into the stream's manifest when it is done. A process that writes
the whole stream waits for those that write parts of it.
"""

import glob
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.stream.spec import MANIFEST, Manifest, StreamSpec, shard_name
from fastconv.system.errors import InputError
from fastconv.system.files import locked


@dataclass(frozen=True)
class Part:
    """Every `count`-th epoch from `number` on, numbers counted from 0."""

    number: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    @property
    def manifest(self) -> str:
        """Name of the file that lists what this part has written; that of the stream's if it is the whole."""
        return MANIFEST if self.count == 1 else f"{MANIFEST}.{self.name}"

    def epochs(self, epochs: int) -> range:
        """Those of the first `epochs` epochs that are this part's."""
        return range(self.number, epochs, self.count)

    def folders(self, stream: Path, epochs: int) -> list[Path]:
        """Folders of these epochs."""
        return [(stream / shard_name(epoch, 0)).parent for epoch in self.epochs(epochs)]


WHOLE = Part()


@contextmanager
def writing(root: Path, spec: StreamSpec, part: Part, wait: bool = True) -> Iterator[bool]:
    """Hold a part of a stream for writing, and then add its shards to the stream's manifest.

    Yields False if `wait` is off and another process is writing. Raises InputError if the stream is being written in
    another number of parts, so that two processes would write one epoch.
    """
    lock = f"{spec.folder}.write"
    with ExitStack() as held:
        with locked(root, lock, wait=wait) as free:
            others = _of_parts(root / ".locks", lock) if free else []
            if free and part.count == 1:
                free = all(held.enter_context(locked(root, path.name, wait=wait)) for path in others)
                if free:
                    _merge(root / spec.folder, spec, _of_parts(root / spec.folder, MANIFEST))
                yield free
                return
            for path in others:
                with locked(root, path.name, wait=False) as idle:
                    count = path.name.rpartition("-of-")[2]
                    if not idle and count != str(part.count):
                        raise InputError(
                            f"{root / spec.folder} is being written in {count} parts: give parts={count}, or wait until"
                            " that is done"
                        )
            free = free and held.enter_context(locked(root, f"{lock}.{part.name}", wait=wait))
        yield free
    if free:
        with locked(root, lock):
            idle_parts = []
            for path in _of_parts(root / spec.folder, MANIFEST):
                with locked(root, f"{lock}.{path.name.removeprefix(f'{MANIFEST}.')}", wait=False) as idle:
                    idle_parts += [path] if idle else []
            _merge(root / spec.folder, spec, idle_parts)


def _of_parts(folder: Path, name: str) -> list[Path]:
    """The files NAME.K-of-N of parts in a folder, and not those that a part is just writing, or was killed while it
    wrote."""
    found = folder.glob(f"{glob.escape(name)}.*")
    return sorted(path for path in found if re.fullmatch(r"[0-9]+-of-[0-9]+", path.name.removeprefix(f"{name}.")))


def _merge(folder: Path, spec: StreamSpec, parts: list[Path]) -> None:
    """Add the shards of parts that nobody writes to the stream's manifest. The caller holds the stream's lock."""
    if not parts:
        return
    manifest = Manifest.read(folder, spec)
    for path in parts:
        manifest.shards.update(Manifest.read(folder, spec, path.name).shards)
    manifest.write(folder)
    for path in parts:
        path.unlink()
