"""Puts a stream on a server: each shard whole, and only then the manifest that names it."""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from fastconv.data.download import AbsentError, tried
from fastconv.data.sending import send_bytes, send_file
from fastconv.data.stream.remote import RemoteFolder, read_manifest
from fastconv.data.stream.shards import ShardEntry, check_shard
from fastconv.data.stream.spec import MANIFEST, Manifest, StreamSpec
from fastconv.data.url_place import Place, below
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted

# Shards that are sent at once.
UPLOADS = 8
# Seconds between updates of the manifest: a killed upload sends no more than the shards of that time again.
MANIFEST_SECONDS = 10.0
# Tries to add shards to a manifest that other machines write too.
MOST_ROUNDS = 10
# Beside the manifest, each command lists what it has sent: of machines that replace the manifest at the same time, the
# last one finds there what the others have added.
SENT = f"{MANIFEST}.sent-"
KEY = "stream.root"
REMOVE = "Remove that file there, and give the command again"
ADVICE = "Check stream.root, its bucket and that you may write to it"


def uploaded(spec: StreamSpec, url: str) -> Manifest:
    """The manifest of a stream in the folder behind a URL; one without shards if the stream is not there.

    Raises InputError for a server that cannot be read, and for a manifest that is damaged or of another stream.
    """
    try:
        return read_manifest(RemoteFolder(url), spec, advice=REMOVE)
    except AbsentError:
        return Manifest(spec, {})


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
    there = uploaded(spec, url).shards
    own = {name: entry for name, entry in Manifest.read(root / spec.folder, spec).shards.items() if name not in there}
    stopped, list_name = threading.Event(), f"{SENT}{secrets.token_hex(6)}"

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
                    _add(spec, url, list_name, sent, stopped)
                    written = time.monotonic()
                on_shard(done, len(own))
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            raise
    if sent:
        _add(spec, url, list_name, sent, stopped)
    return len(sent)


def _add(spec: StreamSpec, url: str, name: str, sent: dict[str, ShardEntry], stopped: threading.Event) -> None:
    """Add shards to the manifest on a server, and those of other machines whose manifest this one has replaced.

    Args:
        name: the file that lists what this command has sent.
    """
    send_bytes(Manifest(spec, sent).content(), below(url, f"{spec.folder}/{name}"), KEY, stopped, ADVICE)
    for _ in range(MOST_ROUNDS):
        manifest, by_all = uploaded(spec, url), _sent_by_all(spec, url)
        if by_all.items() <= manifest.shards.items():
            return
        manifest.shards.update(by_all)
        send_bytes(manifest.content(), below(url, f"{spec.folder}/{MANIFEST}"), KEY, stopped, ADVICE)
    raise InputError(f"other machines keep replacing the manifest of {redacted(url)}: give the command again")


def _sent_by_all(spec: StreamSpec, url: str) -> dict[str, ShardEntry]:
    """The shards that this command and others have sent to the folder behind a URL, by their lists there."""
    address = below(url, spec.folder)
    place = Place(address, KEY)

    def names() -> list[str]:
        place.system.invalidate_cache()  # it may remember what it listed before
        return [path.rpartition("/")[2] for path in place.system.ls(place.path, detail=False)]

    lists = [name for name in tried(names, redacted(address), threading.Event(), ADVICE) if name.startswith(SENT)]
    found: dict[str, ShardEntry] = {}
    for name in lists:
        found |= read_manifest(RemoteFolder(url), spec, name, REMOVE).shards
    return found
