"""Writes the missing shards of a stream, in parallel, and repairs damaged ones."""

import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.stream.cache import remove_leftovers
from fastconv.data.stream.manifest import Manifest, shard_name
from fastconv.data.stream.parts import WHOLE, Part, writing
from fastconv.data.stream.shards import ShardEntry, check_shard, write_shard
from fastconv.data.stream.spec import StreamSpec
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
    on_wait: Callable[[str], None] = lambda whom: None,
) -> Path:
    """Write the first `epochs` epochs of a stream, as far as they are missing; return the stream's folder.

    One thread per core writes shards (numpy, hashing and writing release the interpreter lock). Processes that need the
    same stream take turns, so that later ones find it written. Shards that a killed writer finished are kept.

    Args:
        on_shard: called with (shards done, shards to do) after each shard. If it raises, the shards in progress are
            finished and kept, and no more are started.
        wait: whether to wait if another process is writing the stream, or else leave it to that process.
        is_over: called before each block, in several threads. Once it says True, no more is written: whole shards are
            kept, those in progress are left out.
        part: which of the epochs to write.
        elsewhere: names of shards that are on a server, and not to be written.
        on_wait: called before waiting, with the process that is waited for and what it writes.

    Raises InputError for too little disk space, StreamError for a manifest that is damaged or of another stream.
    """
    folder = root / spec.folder
    with writing(root, spec, part, wait, on_wait) as free:
        if not free:
            return folder
        manifest = Manifest.read(folder, spec, part.manifest)
        written_before = manifest.shards.keys() | Manifest.read(folder, spec).shards.keys()
        tasks = [
            (epoch, shard, blocks)
            for epoch in part.epochs(epochs)
            for shard, blocks in enumerate(spec.shards())
            if (name := shard_name(epoch, shard)) not in written_before and name not in elsewhere
        ]
        if not tasks:
            return folder
        remove_leftovers(*([folder] if part == WHOLE else part.folders(folder, epochs)))
        block_bytes = 1.01 * spec.block * spec.epoch_bytes / spec.samples
        everything = sum(len(blocks) for _, _, blocks in tasks) * block_bytes
        require_space(root, round(everything), f"the stream of {spec.dataset}")

        def write(epoch: int, shard: int, blocks: range) -> tuple[str, ShardEntry]:
            name = shard_name(epoch, shard)
            # Other processes write to the disk too, so check before each shard.
            require_space(root, round(len(blocks) * block_bytes), f"a shard of the stream of {spec.dataset}")
            stored = zip(spec.stored_blocks(epoch, blocks), blocks, strict=True)

            def computed() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
                for block, number in stored:
                    if is_over():
                        raise _OverError
                    yield block.key, *spec.compute(data, epoch, number)

            return name, write_shard(folder / name, computed())

        with suppress(_OverError), ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = [pool.submit(write, *task) for task in tasks]
            written = time.monotonic()
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    manifest.shards.update([future.result()])
                    if time.monotonic() - written > MANIFEST_SECONDS:
                        manifest.write(folder, part.manifest)
                        written = time.monotonic()
                    on_shard(done, len(tasks))
            finally:
                for future in futures:
                    future.cancel()
                pool.shutdown()
                # Shards in progress when another one failed have been finished.
                manifest.shards.update(
                    future.result() for future in futures if not future.cancelled() and future.exception() is None
                )
                manifest.write(folder, part.manifest)
    return folder


class _OverError(Exception):
    """The time for writing is over."""


def verify_stream(spec: StreamSpec, data: ImageData, root: Path) -> list[str]:
    """Check every shard of a stream against its sha256 and write damaged ones again; return their names.

    Raises InputError for a stream that does not exist.
    """
    folder = root / spec.folder
    mended = []
    absent = InputError(f"{folder} has no shards to verify: write them with python -m fastconv.precompute")
    if not folder.is_dir():  # taking the lock would create the root
        raise absent
    with locked(root, f"{spec.folder}.write"):
        try:
            manifest = Manifest.read(folder, spec)
        except StreamError as error:
            mended.append(str(error))
            manifest = Manifest(spec, {})
            epochs = 1 + max((int(path.name.removeprefix("epoch-")) for path in folder.glob("epoch-????")), default=0)
        else:
            if not manifest.shards:
                raise absent
            epochs = manifest.epochs
            for name, entry in list(manifest.shards.items()):
                try:
                    check_shard(folder / name, entry)
                except StreamError as error:
                    mended.append(str(error))
                    del manifest.shards[name]
        if mended:
            manifest.write(folder)
    if mended:
        write_stream(spec, data, root, epochs)
    return mended
