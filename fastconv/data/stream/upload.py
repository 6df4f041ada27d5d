"""Puts a stream on a server: each shard whole, and only then the manifest that names it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from fastconv.data.sending import send_file
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.shards import ShardEntry, check_shard
from fastconv.data.stream.shared_manifest import ADVICE, KEY, SharedManifest
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.url_place import below

# Shards that are sent at once.
UPLOADS = 8
# Seconds between updates of the manifest: a killed upload sends no more than the shards of that time again.
MANIFEST_SECONDS = 10.0


def uploaded(spec: StreamSpec, url: str) -> Manifest:
    """The manifest of a stream in the folder behind a URL; one without shards if the stream is not there.

    Raises InputError for a server that cannot be read, and for a manifest that is damaged or of another stream.
    """
    return SharedManifest(spec, url, threading.Event()).read()


def upload_stream(
    spec: StreamSpec, root: Path, url: str, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Send the shards of a stream that a server lacks to the folder behind a URL; return how many these were.

    Nothing half-sent counts: the server's manifest names a shard only when it has the right size there. Several
    machines may send shards of one stream.

    Args:
        root: the folder on this machine that holds the stream's folder.
        url: of any protocol that fsspec can write to.
        on_shard: called with (shards done, shards to do) after each shard.

    Raises InputError if a shard cannot be sent, StreamError for one that is damaged on this machine.
    """
    stopped = threading.Event()
    manifest = SharedManifest(spec, url, stopped)
    there = manifest.read().shards
    own = {name: entry for name, entry in Manifest.read(root / spec.folder, spec).shards.items() if name not in there}

    def send(name: str, entry: ShardEntry) -> tuple[str, ShardEntry]:
        check_shard(root / spec.folder / name, entry)
        send_file(root / spec.folder / name, below(url, f"{spec.folder}/{name}"), KEY, stopped, ADVICE)
        return name, entry

    sent: dict[str, ShardEntry] = {}
    with ThreadPoolExecutor(UPLOADS) as pool:
        futures = [pool.submit(send, name, own[name]) for name in sorted(own)]
        written = time.monotonic()
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                sent.update([future.result()])
                if time.monotonic() - written > MANIFEST_SECONDS:
                    manifest.add(sent)
                    written = time.monotonic()
                on_shard(done, len(own))
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            raise
    if sent:
        manifest.add(sent)
    manifest.end()
    return len(sent)
