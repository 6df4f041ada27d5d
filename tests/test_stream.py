"""The stream: one sequence of samples, however it is stored, and nothing but whole, right shards ever read."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import tarfile
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset
from conftest import noise, spec_of
from omegaconf import OmegaConf

from fastconv import run as runs
from fastconv.command import compose
from fastconv.data import storage, stream, writer
from fastconv.data.plan import Cutout, Policy, plan_epoch
from fastconv.data.reader import PrecomputedStream
from fastconv.data.sources import load
from fastconv.data.stream import Manifest, OnlineStream
from fastconv.data.writer import verify_stream, write_stream
from fastconv.datamodule import ShardDataModule, SplitBatches, StreamBatches
from fastconv.errors import InputError, StreamError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 10 images, 3 to a shard: 57 images make 2 shards, both with a part left over."""
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 10)
    monkeypatch.setattr(stream, "BLOCKS_PER_SHARD", 3)


@pytest.fixture
def built(tmp_path):
    """(images, spec, root) of a stream of two epochs on disk."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path, 2)
    return data, spec, tmp_path


def sha256s(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.tar"))}


def read_plainly(folder, epoch):
    """All images and labels of an epoch by tarfile and numpy alone."""
    images, labels = [], []
    for path in sorted((folder / f"epoch-{epoch:04d}").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                array = np.load(io.BytesIO(tar.extractfile(member).read()), allow_pickle=False)
                (images if member.name.endswith(".x.npy") else labels).append(array)
    return np.concatenate(images), np.concatenate(labels)


# -- the same bytes


def test_online_and_precomputed_batches_are_the_same(images, tmp_path):
    """Over two epochs and their boundary, in batches that divide neither blocks nor epochs."""
    spec = spec_of(images)
    write_stream(spec, images, tmp_path, 2)
    streams = OnlineStream(spec, images), PrecomputedStream(spec, tmp_path, None)
    pairs = zip(*(StreamBatches(each, batch_size=12, norm_batch=4) for each in streams), strict=True)
    for _, (online, stored) in zip(range(2 * 57 // 4), pairs, strict=False):
        for a, b in zip(online, stored, strict=True):
            assert a.dtype == b.dtype
            assert a.numpy().tobytes() == b.numpy().tobytes()


def test_digits_stream_the_same_from_every_place(digits_root, tmp_path):
    """Real images: online, precomputed, and read with tarfile and numpy."""
    train, _ = load("digits", digits_root)
    spec = spec_of(train)
    write_stream(spec, train, tmp_path, 2)
    online, stored = OnlineStream(spec, train), PrecomputedStream(spec, tmp_path, None)
    for epoch in (0, 1):
        rows = (epoch * len(train), (epoch + 1) * len(train))
        plain = read_plainly(tmp_path / spec.folder, epoch)
        for a, b, c in zip(online.rows(*rows), stored.rows(*rows), plain, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_webdataset_reads_the_shards(built):
    data, spec, root = built
    urls = [str(path) for path in sorted((root / spec.folder).rglob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    images = np.concatenate([sample["x.npy"] for sample in samples])
    labels = np.concatenate([sample["y.npy"] for sample in samples])
    expected = OnlineStream(spec, data).rows(0, 2 * 57)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    assert len({sample["__key__"] for sample in samples}) == len(samples), "keys are unique over the stream"


def test_every_sample_appears_once_per_epoch(tmp_path):
    data = noise(57, 1)
    spec = spec_of(data, Policy())
    write_stream(spec, data, tmp_path, 2)
    expected = Counter(image.tobytes() for image in data.images)
    for epoch in (0, 1):
        assert Counter(image.tobytes() for image in read_plainly(tmp_path / spec.folder, epoch)[0]) == expected


def test_two_builds_have_equal_sha256(built, tmp_path_factory):
    data, spec, root = built
    again = tmp_path_factory.mktemp("again")
    write_stream(spec, data, again, 1)
    write_stream(spec, data, again, 2)  # in two goes
    assert sha256s(again / spec.folder) == sha256s(root / spec.folder)
    assert len(sha256s(again)) == 2, "names are per epoch"
    manifests = [(folder / spec.folder / "manifest.json").read_bytes() for folder in (root, again)]
    assert manifests[0] == manifests[1]


def test_manifest_tells_what_the_files_are(built):
    _, spec, root = built
    content = json.loads((root / spec.folder / "manifest.json").read_text())
    assert content["shape"] == [9, 11, 3]
    assert content["mean"] == [0.2, 0.5, 0.8]
    for name, entry in content["shards"].items():
        data = (root / spec.folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
    assert sum(entry["samples"] for entry in content["shards"].values()) == 2 * 57


def test_fingerprint_follows_everything_that_decides_a_byte():
    data = noise(57, 3)
    spec = spec_of(data)
    others = [
        spec_of(data, seed=4),
        spec_of(data, Policy(cutout=Cutout(3))),
        spec_of(data.take(np.arange(57)[::-1])),
        spec_of(data.take(np.arange(56))),
        dataclasses.replace(spec, mean=(0.1, 0.5, 0.8)),
    ]
    assert len({each.fingerprint for each in [spec, *others]}) == 6


# -- reading


def test_rows_cross_blocks_shards_and_epochs(built):
    data, spec, root = built
    whole = [PrecomputedStream(spec, root, None).rows(*part)[0] for part in ((0, 57), (57, 114))]
    expected = np.concatenate(whole)
    reader = PrecomputedStream(spec, root, None)
    for start, stop in ((0, 1), (9, 11), (29, 31), (25, 75), (56, 58), (0, 114)):
        np.testing.assert_array_equal(reader.rows(start, stop)[0], expected[start:stop])
    plan = plan_epoch(spec.seed, 1, 57, 9, 11, spec.policy)
    np.testing.assert_array_equal(reader.rows(57, 114)[1], data.labels[plan.order])


def test_torch_takes_blocks_without_a_copy_and_cannot_change_the_file(built):
    _, spec, root = built
    reader = PrecomputedStream(spec, root, None)
    before = sha256s(root)
    images, _ = reader.rows(0, 10)
    tensor = torch.from_numpy(images)
    assert tensor.data_ptr() == images.ctypes.data
    tensor.zero_()
    assert not reader.rows(0, 10)[0].any(), "the same memory"
    reader.close()
    assert sha256s(root) == before


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
    with pytest.raises(StreamError, match=r"epoch-0001/shard-0001\.tar of noise-.* has not been written"):
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
    config = OmegaConf.to_object(compose("config", [f"stream.root={root}", f"budget.seconds={seconds}"]))
    run = SimpleNamespace(config=config, spec=spec, train=data, plan=SimpleNamespace(bound_steps=None))
    reader = runs.open_stream(run)
    grow_and_wait(reader, 1)
    reader.close()
    assert Manifest.read(root / spec.folder, spec).epochs == (4 if extends else 2)


def test_ranks_share_each_batch(built):
    data, spec, _ = built
    online = OnlineStream(spec, data)
    whole = iter(StreamBatches(online, batch_size=16, norm_batch=16))
    ranks = [iter(StreamBatches(online, 16, 4, rank, 2)) for rank in (0, 1)]
    for _ in range(8):
        batch = next(whole)[0].numpy()
        parts = [next(each)[0].numpy() for each in ranks for _ in range(2)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_splits_are_scored_whole_and_once():
    data = noise(1201, 1)
    batches = SplitBatches(data)
    images = np.concatenate([batch.numpy() for batch, _ in batches])
    np.testing.assert_array_equal(images, data.images)
    assert len(batches) == 3
    assert [len(SplitBatches(data, 1001, rank, 2)) for rank in (0, 1)] == [2, 2], "ranks take as many steps"
    ranks = [np.concatenate([labels.numpy() for _, labels in SplitBatches(data, None, rank, 2)]) for rank in (0, 1)]
    assert sum(map(len, ranks)) == 1201
    sample = np.concatenate([labels.numpy() for _, labels in SplitBatches(data, 100)])
    np.testing.assert_array_equal(sample, data.labels[np.linspace(0, 1201, 100, endpoint=False).astype(int)])


def test_module_without_validation_has_none(built):
    data, spec, _ = built
    module = ShardDataModule(OnlineStream(spec, data), 16, 4, None, None, data)
    assert module.val_dataloader() == []


# -- faults


def first_shard(spec, root):
    return root / spec.folder / "epoch-0000" / "shard-0000.tar"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-700])


def alter(path):
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [(truncate, "cut off"), (alter, "was altered"), (remove, "is missing")],
    ids=lambda value: str(value),
)
def test_a_damaged_shard_is_never_read_and_can_be_mended(built, harm, says):
    data, spec, root = built
    right = sha256s(root)
    path = first_shard(spec, root)
    harm(path)
    reader = PrecomputedStream(spec, root, None)
    with pytest.raises(StreamError, match=says) as error:
        reader.rows(0, 4)
    assert str(path) in str(error.value)
    reader.close()
    mended = verify_stream(spec, data, root)
    assert len(mended) == 1
    assert sha256s(root) == right
    assert verify_stream(spec, data, root) == []


def test_without_verify_only_the_size_is_checked(built):
    """A changed pixel goes through; a shard that is cut off or makes no sense is refused all the same."""
    data, spec, root = built
    path = first_shard(spec, root)
    right = path.read_bytes()
    alter(path)
    found = PrecomputedStream(spec, root, data, verify=False).rows(0, 57)[0]
    assert (found != OnlineStream(spec, data).rows(0, 57)[0]).sum() == 1
    truncate(path)
    with pytest.raises(StreamError, match="cut off"):
        PrecomputedStream(spec, root, data, verify=False).rows(0, 4)
    for start in (0, 512, 512 + 60):  # the tar's header, numpy's, and the shape in it
        path.write_bytes(right[:start] + b"?" * 40 + right[start + 40 :])
        with pytest.raises(StreamError, match=rf"{path} was altered: it is no shard"):
            PrecomputedStream(spec, root, data, verify=False).rows(0, 4)


def test_runs_check_shards_unless_told_not_to(built):
    data, spec, root = built
    alter(first_shard(spec, root))
    config = OmegaConf.to_object(compose("config", [f"stream.root={root}", "stream.verify=false"]))
    run = SimpleNamespace(config=config, spec=spec, train=data, plan=SimpleNamespace(bound_steps=None))
    runs.open_stream(run).rows(0, 4)
    config.stream.verify = True
    with pytest.raises(StreamError, match="was altered"):
        runs.open_stream(run).rows(0, 4)


def harm_manifest(root, spec, **changes):
    path = root / spec.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "has format 2, this fastconv reads format 1"),
        ({"fingerprint": "f" * 16}, "belongs to another stream"),
        ({"shards": 5}, "damaged"),
    ],
)
def test_a_foreign_manifest_is_refused_and_can_be_mended(built, changes, says):
    data, spec, root = built
    right = sha256s(root)
    harm_manifest(root, spec, **changes)
    with pytest.raises(StreamError, match=says):
        PrecomputedStream(spec, root, None)
    with pytest.raises(StreamError, match=says):
        write_stream(spec, data, root, 2)
    assert verify_stream(spec, data, root)
    assert sha256s(root) == right
    assert Manifest.read(root / spec.folder, spec).epochs == 2


def test_a_cut_off_manifest_is_refused(built):
    _, spec, root = built
    truncate(root / spec.folder / "manifest.json")
    with pytest.raises(StreamError, match="damaged"):
        PrecomputedStream(spec, root, None)


def test_an_empty_stream_cannot_be_verified(tmp_path):
    data = noise(57, 1)
    spec = spec_of(data)
    (tmp_path / spec.folder).mkdir()
    with pytest.raises(InputError, match="no shards to verify"):
        verify_stream(spec, data, tmp_path)


def test_a_killed_writer_loses_little_and_leaves_nothing(tmp_path, monkeypatch):
    """An error in the middle: what was finished is kept, no half-written file stays, the rest is written later."""
    data = noise(57, 3)
    spec = spec_of(data)
    compute = stream.StreamSpec.compute

    def fail_late(self, data, epoch, block):
        if (epoch, block) == (1, 4):
            raise KeyboardInterrupt
        return compute(self, data, epoch, block)

    monkeypatch.setattr(stream.StreamSpec, "compute", fail_late)
    with pytest.raises(KeyboardInterrupt):
        write_stream(spec, data, tmp_path, 2)
    monkeypatch.undo()
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 10)
    monkeypatch.setattr(stream, "BLOCKS_PER_SHARD", 3)
    assert not list(tmp_path.rglob("*.part"))
    kept = Manifest.read(tmp_path / spec.folder, spec).shards
    assert 0 < len(kept) < 4
    (tmp_path / spec.folder / "epoch-0001" / "shard-0001.tar.1.part").touch()  # as a kill -9 leaves it
    counts = []
    write_stream(spec, data, tmp_path, 2, on_shard=lambda done, total: counts.append(total))
    assert set(counts) == {4 - len(kept)}
    assert not list(tmp_path.rglob("*.part"))
    assert verify_stream(spec, data, tmp_path) == []


def test_too_little_disk_is_refused_before_writing(tmp_path, monkeypatch):
    data = noise(57, 3)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * 2**20 + 1000}))
    with pytest.raises(InputError, match=r"needs 0 MB .* has 67 MB free.*stream=online"):
        write_stream(spec_of(data), data, tmp_path, 2)
    assert not list(tmp_path.rglob("*.tar"))


def test_a_disk_that_fills_up_is_noticed_before_the_next_shard(built, monkeypatch):
    """Somebody else takes the space after two shards; they are kept, and nothing half-written is."""
    data, spec, root = built
    enough = iter([True] * 3)  # the whole stream, then a shard at a time
    usage = lambda _: type("Usage", (), {"free": 2**40 if next(enough, False) else 64 * 2**20 - 1})  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "disk_usage", usage)
        patch.setattr(writer.os, "cpu_count", lambda: 1)
        with pytest.raises(InputError, match=r"a shard of the stream of noise needs 0 MB .* has 67 MB free"):
            write_stream(spec, data, root, 5)
    assert not list(root.rglob("*.part"))
    kept = set(Manifest.read(root / spec.folder, spec).shards)
    assert kept == {str(path.relative_to(root / spec.folder)) for path in root.rglob("*.tar")}
    assert len(kept) == 4 + 2
    totals = set()
    write_stream(spec, data, root, 5, on_shard=lambda done, total: totals.add(total))
    assert totals == {10 - 6}
    assert verify_stream(spec, data, root) == []


def test_a_full_disk_ends_with_one_line(built, monkeypatch):
    data, spec, root = built
    npy_bytes = writer.write_shard.__globals__["npy_bytes"]

    def full(array):
        if array.ndim == 1:
            raise OSError(28, "No space left on device")
        return npy_bytes(array)

    monkeypatch.setitem(writer.write_shard.__globals__, "npy_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*epoch-0002.*: No space left on device"):
        write_stream(spec, data, root, 3)
    assert not list(root.rglob("*.part"))
    assert Manifest.read(root / spec.folder, spec).epochs == 2


# -- several processes


def count_written(spec, data, root, barrier, answers):
    stream.BLOCK_SAMPLES, stream.BLOCKS_PER_SHARD = 10, 3
    written = []
    barrier.wait()
    write_stream(spec, data, root, 3, on_shard=lambda done, total: written.append(done))
    answers.put(len(written))


def test_two_processes_write_a_stream_once(tmp_path):
    data = noise(57, 3)
    spec = spec_of(data)
    context = multiprocessing.get_context("forkserver")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (spec, data, tmp_path, barrier, answers)
    processes = [context.Process(target=count_written, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert sorted(answers.get(timeout=5) for _ in processes) == [0, 6]
    assert verify_stream(spec, data, tmp_path) == []


def test_prune_removes_the_least_recently_used_that_nobody_reads(tmp_path):
    data = noise(57, 3)
    specs = [spec_of(data, seed=seed) for seed in range(4)]
    for age, spec in enumerate(specs):
        write_stream(spec, data, tmp_path, 1)
        storage.os.utime(tmp_path / spec.folder, (1e9 + age, 1e9 + age))
    (tmp_path / "somebody's-0123456789abcdef").mkdir()
    (tmp_path / "somebody's-0123456789abcdef" / "thesis.txt").touch()
    size = storage.stored_streams(tmp_path)[0].bytes
    with storage.in_use(tmp_path, specs[0].folder):  # now the most recently used, and held
        assert storage.prune(tmp_path, 4 * size) == []
        assert storage.prune(tmp_path, 3 * size, keep=specs[3].folder) == [], "what is kept does not count"
        removed = storage.prune(tmp_path, 3 * size)
        assert [each.folder.name for each in removed] == [specs[1].folder]
        removed = storage.prune(tmp_path, 0, keep=specs[3].folder)
        assert [each.folder.name for each in removed] == [specs[2].folder]
    assert len(storage.prune(tmp_path, 0)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {".locks", "somebody's-0123456789abcdef"}
    assert storage.prune(tmp_path / "nowhere", 0) == []


def test_a_run_holds_its_stream_from_before_it_is_written(command, tmp_path, monkeypatch):
    """Another process that frees the disk between the last shard written and the first one read leaves it alone."""
    precompute, removed = runs.precompute, []

    def then_prune(run, console):
        precompute(run, console)
        removed.extend(storage.prune(tmp_path / "streams", 0))

    monkeypatch.setattr(runs, "precompute", then_prune)
    settings = ("model.width=8", "trainer=cpu", "trainer.precision=fp32", "budget.seconds=null", "schedule.epochs=0.1")
    ended = command("train", *settings, "stream.root=streams")
    assert ended.code == 0, ended.err
    assert removed == []
    assert len(storage.prune(tmp_path / "streams", 0)) == 1, "and lets go of it"
