"""A stream that grows behind its reader, or does not: the same batches whenever, by whomever and how far."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from fastconv.config.overrides import compose
from fastconv.data.stream import cache as storage
from fastconv.data.stream import spec as stream
from fastconv.data.stream import writer
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.writer import verify_stream, write_stream
from fastconv.system.errors import InputError, StreamError
from fastconv.training import run_stream as runs

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_what_is_not_on_disk_is_computed(built):
    """From the first image on, in the middle of an epoch, and with nothing there at all; without data it is said."""
    data, spec, root = built
    expected = OnlineStream(spec, data).rows(0, 5 * 57)
    (root / spec.folder / "epoch-0001" / "shard-0001.tar").unlink()
    manifest = Manifest.read(root / spec.folder, spec)
    del manifest.shards["epoch-0001/shard-0001.tar"]
    manifest.write(root / spec.folder)
    for folder in (root, root / "nothing"):
        for found, right in zip(PrecomputedStream(spec, folder, data).rows(0, 5 * 57), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    reader = PrecomputedStream(spec, root, None)
    np.testing.assert_array_equal(reader.rows(0, 87)[0], expected[0][:87])
    with pytest.raises(StreamError, match=r"epoch-0001/shard-0001\.tar of noise-.* is not there"):
        reader.rows(86, 88)


def recorded(spec, data, root):
    """(an `extend` that writes to `root`, the numbers of epochs it was asked for)."""
    asked = []

    def extend(epochs, on_shard):
        asked.append(epochs)
        write_stream(spec, data, root, epochs, on_shard)

    return extend, asked


def grow_and_wait(reader, epoch):
    """Read the epoch's first image, which has the reader look ahead, and wait for the end of what that started."""
    reader.rows(epoch * 57, epoch * 57 + 1)
    if reader._extension is not None:
        reader._extension.join(60)


def test_a_stream_grows_behind_the_reader(built):
    data, spec, root = built
    extend, asked = recorded(spec, data, root)
    reader, online = PrecomputedStream(spec, root, data, extend), OnlineStream(spec, data)
    other = PrecomputedStream(spec, root, None)  # as another rank's, that only reads
    for epoch in range(6):
        start = epoch * 57
        grow_and_wait(reader, epoch)
        for each in (reader, other):
            np.testing.assert_array_equal(each.rows(start, start + 57)[0], online.rows(start, start + 57)[0])
    reader.close()
    assert asked == [4, 6, 8]
    assert Manifest.read(root / spec.folder, spec).epochs == 8


@pytest.mark.parametrize("shards_at_once", [0, 1, 3, 100])
def test_batches_do_not_depend_on_when_the_stream_grows(built, monkeypatch, shards_at_once):
    """Between two batches the writer gets on by no shard, by some, or by all."""
    data, spec, root = built
    monkeypatch.setattr(writer, "MANIFEST_SECONDS", 0)
    go, ended = threading.Semaphore(0), threading.Event()

    def extend(epochs, on_shard):
        def pace(done, total):
            while not (go.acquire(timeout=0.02) or ended.is_set()):
                pass
            on_shard(done, total)

        write_stream(spec, data, root, epochs, pace)

    reader, online = PrecomputedStream(spec, root, data, extend), OnlineStream(spec, data)
    for start in range(0, 7 * 57, 8):
        if shards_at_once:
            go.release(shards_at_once)
        for found, right in zip(reader.rows(start, start + 8), online.rows(start, start + 8), strict=True):
            np.testing.assert_array_equal(found, right)
    ended.set()
    reader.close()
    assert verify_stream(spec, data, root) == []


def test_a_stream_grows_no_further_than_the_run_can_get(built):
    data, spec, root = built
    extend, asked = recorded(spec, data, root)
    reader = PrecomputedStream(spec, root, data, extend, max_epochs=3)
    for epoch in (1, 2, 3):
        grow_and_wait(reader, epoch)
    PrecomputedStream(spec, root, data, extend, max_epochs=3).rows(0, 3 * 57)
    assert asked == [3]


def test_a_stream_that_cannot_grow_is_computed(built):
    data, spec, root = built
    asked = []

    def extend(epochs, on_shard):
        asked.append(epochs)
        raise InputError("the disk is full")

    reader = PrecomputedStream(spec, root, data, extend)
    with pytest.warns(UserWarning, match="cannot grow, so its further epochs are computed: the disk is full"):
        grow_and_wait(reader, 1)
    expected = OnlineStream(spec, data).rows(2 * 57, 3 * 57)
    np.testing.assert_array_equal(reader.rows(2 * 57, 3 * 57)[0], expected[0])
    assert asked == [4]


def test_closing_stops_an_extension_and_keeps_what_is_finished(built, monkeypatch):
    data, spec, root = built
    compute, first = stream.StreamSpec.compute, threading.Event()

    def slowly(self, data, epoch, block):
        threading.Event().wait(0.005)
        return compute(self, data, epoch, block)

    def extend(epochs, on_shard):
        def tell(done, total):
            first.set()
            on_shard(done, total)

        write_stream(spec, data, root, 500, tell)

    monkeypatch.setattr(stream.StreamSpec, "compute", slowly)
    reader = PrecomputedStream(spec, root, data, extend)
    reader.rows(57, 58)
    assert first.wait(60)
    reader.close()
    assert not reader._extension.is_alive()
    shards = Manifest.read(root / spec.folder, spec).shards
    assert 4 < len(shards) < 1000
    on_disk = {str(path.relative_to(root / spec.folder)) for path in root.rglob("*.tar")}
    assert on_disk == set(shards), "what was in work is finished and known"
    assert not list(root.rglob("*.part"))


def test_an_extension_does_not_wait_for_another_writer(built):
    data, spec, root = built
    with storage.locked(root, f"{spec.folder}.write"):
        write_stream(spec, data, root, 3, wait=False)
    assert Manifest.read(root / spec.folder, spec).epochs == 2
    write_stream(spec, data, root, 3, wait=False)
    assert Manifest.read(root / spec.folder, spec).epochs == 3


@pytest.mark.parametrize(("rank", "seconds", "extends"), [("0", 9, True), ("1", 9, False), ("0", "null", False)])
def test_only_the_first_rank_of_a_run_with_a_time_limit_extends(built, monkeypatch, rank, seconds, extends):
    data, spec, root = built
    monkeypatch.setenv("LOCAL_RANK", rank)
    config = OmegaConf.to_object(compose("train", [f"stream.root={root}", f"budget.seconds={seconds}"]))
    plan = SimpleNamespace(max_steps=None)
    run = SimpleNamespace(config=config, spec=spec, train=data, plan=plan, stream_grows=True)
    reader = runs.open_stream(run)
    grow_and_wait(reader, 1)
    reader.close()
    assert Manifest.read(root / spec.folder, spec).epochs == (4 if extends else 2)
