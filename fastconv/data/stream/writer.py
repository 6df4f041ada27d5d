"""Writes the missing shards of a stream, in parallel, and repairs damaged ones."""

import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.stream.cache import remove_leftovers
from fastconv.data.stream.manifest import Manifest, epoch_of, shard_name
from fastconv.data.stream.parts import WHOLE, Part, writing
from fastconv.data.stream.shards import ShardEntry, check_shard, write_shard
from fastconv.data.stream.spec import StreamSpec
from fastconv.system.cores import core_count
from fastconv.system.errors import InputError, StreamError
from fastconv.system.files import locked, require_space

# Seconds between updates of the manifest while shards are written: a killed writer loses no more work than that.
MANIFEST_SECONDS = 1.0


def write_stream(
    spec: StreamSpec,
    data: ImageData,
    root: Path,
    epochs: int,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
    wait: bool = True,
    is_over: Callable[[], bool] = lambda: False,
    part: Part = WHOLE,
    elsewhere: Collection[str] = (),
    on_wait: Callable[[str], None] = lambda holder: None,
) -> Path:
    """Write the first `epochs` epochs of a stream, as far as they are missing; return the stream's folder.

    One thread per core writes shards (numpy, hashing and writing release the interpreter lock). Processes that need the
    same stream take turns, so that later ones find it written. Shards that a killed writer finished are kept.

    Args:
        spec: what decides the bytes of the stream.
        data: the training images.
        root: the folder that holds the stream's folder.
        on_shard: called with (shards done, shards to do) after each shard. If it raises, the shards in progress are
            finished and kept, and no more are started.
        wait: whether to wait if another process is writing the stream, or else leave it to that process.
        is_over: called before each block, in several threads, and while another process is waited for. Once it says
            True, no more is written: whole shards are kept, those in progress are left out.
        part: which of the epochs to write.
        elsewhere: names of shards that are on a server, and not to be written.
        on_wait: called before waiting, with the process that is waited for and what it writes.

    Raises InputError for too little disk space and for a stream that is being written in another number of parts,
    StreamError for a manifest that is damaged or of another stream.
    """
    folder = root / spec.folder
    with writing(root, spec, part, wait, on_wait, is_over) as is_ours:
        if not is_ours:
            return folder
        manifest = Manifest.read(folder, spec, part.manifest)
        there = manifest.shards.keys() | Manifest.read(folder, spec).shards.keys() | set(elsewhere)
        missing = _missing_shards(spec, part.epochs(epochs), there)
        if not missing:
            return folder
        remove_leftovers(*([folder] if part == WHOLE else part.folders(folder, epochs)))
        require_space(root, _bytes_of(spec, *missing), f"the stream of {spec.dataset}")

        def write(shard: _MissingShard) -> tuple[str, ShardEntry]:
            # Other processes write to the disk too, so check before each shard.
            require_space(root, _bytes_of(spec, shard), f"a shard of the stream of {spec.dataset}")
            return shard.name, write_shard(folder / shard.name, _computed(spec, data, shard, is_over))

        _write_in_threads(missing, write, manifest, functools.partial(manifest.write, folder, part.manifest), on_shard)
    return folder


@dataclass(frozen=True)
class _MissingShard:
    """A shard to write: its path inside the stream, its epoch, and the numbers of its blocks in that epoch."""

    name: str
    epoch: int
    blocks: range


def _missing_shards(spec: StreamSpec, epochs: Iterable[int], there: Collection[str]) -> list[_MissingShard]:
    """The shards of some epochs, in order, whose names are not among those that are `there`."""
    return [
        _MissingShard(name, epoch, blocks)
        for epoch in epochs
        for shard, blocks in enumerate(spec.shards())
        if (name := shard_name(epoch, shard)) not in there
    ]


def _bytes_of(spec: StreamSpec, *shards: _MissingShard) -> int:
    """The bytes that some shards take on the disk, at most: 1 % is for tar headers, and the last block may be small."""
    block_bytes = 1.01 * spec.block * spec.epoch_bytes / spec.samples
    return round(sum(len(shard.blocks) for shard in shards) * block_bytes)


def _computed(
    spec: StreamSpec, data: ImageData, shard: _MissingShard, is_over: Callable[[], bool]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Compute the blocks of a shard: for each its key, images uint8 [B, H, W, C] and labels int64 [B].

    Raises _OverError once `is_over` says True.
    """
    for block, number in zip(spec.stored_blocks(shard.epoch, shard.blocks), shard.blocks, strict=True):
        if is_over():
            raise _OverError
        yield block.key, *spec.compute(data, shard.epoch, number)


def _write_in_threads(
    missing: Sequence[_MissingShard],
    write: Callable[[_MissingShard], tuple[str, ShardEntry]],
    manifest: Manifest,
    store: Callable[[], None],
    on_shard: Callable[[int, int], None],
) -> None:
    """Write shards in one thread per core, and add each to the manifest, which is stored meanwhile and at the end.

    However this ends, the manifest names all shards that have been finished.

    Args:
        write: writes one shard, and returns its name and entry. If it raises _OverError, no more are written.
        store: writes the manifest to the disk.
        on_shard: as in `write_stream`.

    Raises what `write`, `store` or `on_shard` raises, once no thread writes any more.
    """
    with suppress(_OverError), ThreadPoolExecutor(core_count()) as pool:
        futures = [pool.submit(write, shard) for shard in missing]
        stored_at = time.monotonic()
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                manifest.shards.update([future.result()])
                if time.monotonic() - stored_at > MANIFEST_SECONDS:
                    store()
                    stored_at = time.monotonic()
                on_shard(done, len(missing))
        finally:
            for future in futures:
                future.cancel()
            pool.shutdown()
            # Shards in progress when another one failed have been finished.
            manifest.shards.update(
                future.result() for future in futures if not future.cancelled() and future.exception() is None
            )
            store()


class _OverError(Exception):
    """The time for writing is over."""


def verify_stream(spec: StreamSpec, data: ImageData, root: Path) -> list[str]:
    """Check every shard of a stream against its sha256, and write damaged ones again.

    Of a stream whose manifest is damaged or of another stream, all shards are written again.

    Args:
        spec: what decides the bytes of the stream.
        data: the training images.
        root: the folder that holds the stream's folder.

    Returns a line for each damaged shard, or for the manifest, which says what was wrong. Raises InputError for a
    stream that does not exist, and for too little disk space.
    """
    folder, shards = root / spec.folder, range(len(spec.shards()))
    damage: list[str] = []
    right: set[str] = set()  # shards that are not to be written
    absent = InputError(f"{folder} has no shards to verify: write them with python -m fastconv.precompute")
    if not folder.is_dir():  # taking the lock would create the root
        raise absent
    with locked(root, f"{spec.folder}.write"):
        try:
            manifest = Manifest.read(folder, spec)
        except StreamError as error:
            damage.append(str(error))
            manifest = Manifest(spec, {})
            epochs = 1 + max((int(path.name.removeprefix("epoch-")) for path in folder.glob("epoch-????")), default=0)
        else:
            if not manifest.shards:
                raise absent
            # Not only epochs that are complete: a writer may have been killed, or have written a part of the stream.
            epochs = 1 + max(map(epoch_of, manifest.shards))
            right = {shard_name(epoch, shard) for epoch in range(epochs) for shard in shards}
            for name, entry in list(manifest.shards.items()):
                try:
                    check_shard(folder / name, entry)
                except StreamError as error:
                    damage.append(str(error))
                    del manifest.shards[name]
                    right.remove(name)
        if damage:
            manifest.write(folder)
    if damage:  # outside of the lock, which this takes itself
        write_stream(spec, data, root, epochs, elsewhere=right)
    return damage
