"""Several processes that write one stream together, each some of its epochs.

Each has a lock and a manifest of its own, which is added to the stream's manifest in the end. A process that writes the
whole stream waits for those that write parts of it. Beside each lock, a file says which process has it.
"""

import glob
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.stream.manifest import MANIFEST, Manifest, shard_name
from fastconv.data.stream.spec import StreamSpec
from fastconv.system.errors import InputError
from fastconv.system.files import locked, write_atomically

# Seconds between looks at the time while another process writes.
LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Part:
    """Every `count`-th epoch from `number` on, numbers counted from 0."""

    number: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """Such as `0-of-2`."""
        return f"{self.number}-of-{self.count}"

    @property
    def manifest(self) -> str:
        """Name of the file that lists what this part has written; that of the stream's if it is the whole."""
        return MANIFEST if self.count == 1 else f"{MANIFEST}.{self.name}"

    def lock(self, spec: StreamSpec) -> str:
        """Name of the lock that a process holds while it writes this part."""
        return _lock(spec) if self.count == 1 else f"{_lock(spec)}.{self.name}"

    def epochs(self, epochs: int) -> range:
        """This part's epochs among the first `epochs` ones."""
        return range(self.number, epochs, self.count)

    def folders(self, stream: Path, epochs: int) -> list[Path]:
        """Folders of these epochs."""
        return [(stream / shard_name(epoch, 0)).parent for epoch in self.epochs(epochs)]


WHOLE = Part()


@contextmanager
def writing(
    root: Path,
    spec: StreamSpec,
    part: Part,
    wait: bool = True,
    on_wait: Callable[[str], None] = lambda holder: None,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[bool]:
    """Hold a part of a stream for writing, and then add its shards to the stream's manifest.

    Yields False if another process is writing, and `wait` is off or `is_over` says that the time for waiting is over.
    Before each wait, `on_wait` is called with the process that is waited for and what it writes. Raises InputError if
    the stream is being written in another number of parts, so that two processes would write one epoch.
    """
    with ExitStack() as held:
        while (busy := _take(root, spec, part, held)) and wait and not is_over():
            if holder := _holder(root, busy):
                on_wait(f"{holder}, which writes {_written_under(root, spec, busy)}")
            # Nothing is held meanwhile, so that nobody waits who could write another part.
            is_free = False
            while not is_free and not is_over():
                with locked(root, busy, wait=LOOK_SECONDS) as is_free:
                    pass
        yield not busy
        if busy or part.count == 1:
            return
    with locked(root, _lock(spec)):
        _merge_idle(root, spec)


def _take(root: Path, spec: StreamSpec, part: Part, held: ExitStack) -> str:
    """Take the locks for writing a part into `held`; return an empty string. If another process has one of them, take
    none, and return its name.

    Raises InputError if the stream is being written in another number of parts.
    """
    with ExitStack() as taken:

        def take(name: str) -> bool:
            return taken.enter_context(locked(root, name, wait=False))

        if not take(_lock(spec)):
            return _lock(spec)
        others = [path.name for path in _of_parts(root / ".locks", _lock(spec))]
        if part.count == 1:
            if busy := next((name for name in others if not take(name)), ""):
                return busy
            _merge(root / spec.folder, spec, _of_parts(root / spec.folder, MANIFEST))
            held.push(taken.pop_all())
        else:
            for name in others:
                count = name.rpartition("-of-")[2]
                if count != str(part.count) and _is_held(root, name):
                    raise InputError(
                        f"{root / spec.folder} is being written in {count} parts: give parts={count}, or wait until"
                        " that is done"
                    )
            if not held.enter_context(locked(root, part.lock(spec), wait=False)):
                return part.lock(spec)
        holder_file = _holder_file(root, part.lock(spec))
        held.callback(holder_file.unlink, missing_ok=True)
        with suppress(InputError):  # of a full disk: the shards will say so
            write_atomically(holder_file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return ""


@dataclass(frozen=True)
class Missing:
    """A part of a stream that lacks some epochs."""

    part: Part
    epochs: int
    """Number of epochs that it lacks."""
    writer: str
    """The process that writes it now; empty if none does."""


def missing_parts(
    root: Path, spec: StreamSpec, count: int, epochs: int, elsewhere: Collection[str] = ()
) -> list[Missing]:
    """The parts, of `count` ones, whose epochs are not all in the stream's manifest or `elsewhere`.

    Args:
        epochs: number of the stream's epochs, counted from the first one.
        elsewhere: names of shards that are on a server.

    Raises StreamError for a manifest that is damaged or of another stream.
    """
    found, shards = [], range(len(spec.shards()))
    with locked(root, _lock(spec)):
        there = Manifest.read(root / spec.folder, spec).shards.keys() | set(elsewhere)
        for part in (Part(number, count) for number in range(count)):
            lacks = sum(any(shard_name(epoch, shard) not in there for shard in shards) for epoch in part.epochs(epochs))
            if lacks:
                name = part.lock(spec)
                writer = (_holder(root, name) or "another process") if _is_held(root, name) else ""
                found.append(Missing(part, lacks, writer))
    return found


def _lock(spec: StreamSpec) -> str:
    """Name of a stream's lock: a process holds it while it writes the whole, and for a moment to try other locks."""
    return f"{spec.folder}.write"


def _is_held(root: Path, lock: str) -> bool:
    """Whether a part is being written. The caller holds the stream's lock, so that nobody else tries this one."""
    with locked(root, lock, wait=False) as free:
        return not free


def _written_under(root: Path, spec: StreamSpec, lock: str) -> str:
    """Describe what a process writes while it holds a lock: the whole stream or a part of it."""
    folder = root / spec.folder
    if lock == _lock(spec):
        return str(folder)
    number, _, count = lock.removeprefix(f"{_lock(spec)}.").partition("-of-")
    return f"part={number} of parts={count} of {folder}"


def _holder_file(root: Path, lock: str) -> Path:
    """The file in which the process that holds a lock says which one it is."""
    return root / ".locks" / f"{lock}.holder"


def _holder(root: Path, lock: str) -> str:
    """The process that holds a lock, such as `process 12 on node7`; empty if it has not said so."""
    try:
        holder = _holder_file(root, lock).read_text("utf-8", "replace")
    except OSError:
        return ""
    return holder if re.fullmatch(r"process [0-9]{1,20} on [\w.-]{1,255}", holder) else "another process"


def _of_parts(folder: Path, name: str) -> list[Path]:
    """The files NAME.K-of-N of parts in a folder. Files with another ending are unfinished, or no part's."""
    found = folder.glob(f"{glob.escape(name)}.*")
    return sorted(path for path in found if re.fullmatch(r"[0-9]+-of-[0-9]+", path.name.removeprefix(f"{name}.")))


def _merge_idle(root: Path, spec: StreamSpec) -> None:
    """Add the shards of the parts that nobody writes to the stream's manifest. The caller holds the stream's lock."""
    idle = []
    with ExitStack() as held:
        for path in _of_parts(root / spec.folder, MANIFEST):
            name = f"{_lock(spec)}.{path.name.removeprefix(f'{MANIFEST}.')}"
            idle += [path] if held.enter_context(locked(root, name, wait=False)) else []
        _merge(root / spec.folder, spec, idle)


def _merge(folder: Path, spec: StreamSpec, parts: list[Path]) -> None:
    """Add the shards of some parts to the stream's manifest. The caller holds their locks."""
    if not parts:
        return
    manifest = Manifest.read(folder, spec)
    for path in parts:
        manifest.shards.update(Manifest.read(folder, spec, path.name).shards)
    manifest.write(folder)
    for path in parts:
        path.unlink()
