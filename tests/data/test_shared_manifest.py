"""Commands on several machines add to the manifest of one stream, and leave no list behind when all have ended."""

import random
import threading
from datetime import timedelta

import fsspec
import pytest
from harness import noise, spec_of

from fastconv.data.stream import shared_manifest
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.shared_manifest import SENT, SharedManifest
from fastconv.data.stream.upload import upload_stream, uploaded
from fastconv.data.stream.writer import write_stream

URL = "memory://shared/streams"


@pytest.fixture
def store():
    """The names of the lists that a store holds."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda: sorted(path.rpartition("/")[2] for path in system.store if SENT in path)
    system.store.clear()


@pytest.fixture
def stream(tmp_path, small_blocks):
    """(spec, its shards, their folder) of a stream of two epochs of two shards."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "disk", 2)
    return spec, Manifest.read(tmp_path / "disk" / spec.folder, spec).shards, tmp_path / "disk"


class Turns:
    """Lets one of several threads at a time go on from one request to the next, in an order drawn by chance."""

    def __init__(self, seed, works):
        self.random, self.waiting, self.changed = random.Random(seed), {}, threading.Condition()
        self.threads = [threading.Thread(target=self._run, args=(work,)) for work in works]
        self.left = len(works)

    def _run(self, work):
        self.wait()
        try:
            work()
        finally:
            with self.changed:
                self.left -= 1
                self.changed.notify_all()

    def wait(self):
        """Called by a thread before each of its requests."""
        turn = threading.Event()
        with self.changed:
            self.waiting[threading.get_ident()] = turn
            self.changed.notify_all()
        assert turn.wait(60)

    def run(self):
        for thread in self.threads:
            thread.start()
        while True:
            with self.changed:
                assert self.changed.wait_for(lambda: len(self.waiting) == self.left, 60)
                if not self.left:
                    break
                self.waiting.pop(self.random.choice(list(self.waiting))).set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("seed", range(40))
def test_no_shard_is_lost_in_any_order_of_requests(seed, stream, store, monkeypatch):
    spec, shards, _ = stream
    commands = [SharedManifest(spec, URL, threading.Event()) for _ in range(3)]

    def work(command, own):
        for name in own:
            command.add({name: shards[name]})
        command.end()

    names = sorted(shards)
    turns = Turns(seed, [lambda at=at: work(commands[at], names[at::3]) for at in range(3)])
    with monkeypatch.context() as patch:
        for request in ("_lists", "_read", "_write", "_remove"):
            act = getattr(SharedManifest, request)
            patch.setattr(SharedManifest, request, lambda *given, act=act: (turns.wait(), act(*given))[1])
        turns.run()
    assert uploaded(spec, URL).shards == shards
    assert store() == []


def test_the_list_of_a_command_that_was_killed_goes_after_a_day(stream, store, monkeypatch):
    """Until then it may go on, with a manifest that it has read before."""
    spec, shards, folder = stream
    first = min(shards)
    SharedManifest(spec, URL, threading.Event()).add({first: shards[first]})
    (killed,) = store()
    assert upload_stream(spec, folder, URL) == len(shards) - 1
    assert killed in store()
    assert len(store()) == 2
    assert upload_stream(spec, folder, URL) == 0
    assert len(store()) == 2
    monkeypatch.setattr(shared_manifest, "ABANDONED", timedelta())
    assert upload_stream(spec, folder, URL) == 0
    assert store() == []
    assert uploaded(spec, URL).shards == shards


def test_a_store_from_which_nothing_may_be_removed_keeps_its_lists(stream, store, monkeypatch):
    spec, shards, folder = stream

    def denied(*_):
        raise PermissionError("403")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm_file", denied, raising=False)
    assert upload_stream(spec, folder, URL) == len(shards)
    assert uploaded(spec, URL).shards == shards
    assert len(store()) == 2
