"""Writing streams: nothing but whole, right shards ever read, whatever happens to processes, files and the disk."""

import errno
import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import noise, sha256s, spec_of
from omegaconf import OmegaConf

from fastconv.config.overrides import compose
from fastconv.data.stream import cache as storage
from fastconv.data.stream import spec as stream
from fastconv.data.stream import writer
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.parts import Part
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.writer import verify_stream, write_stream
from fastconv.system.errors import InputError, StreamError
from fastconv.training import run_stream as runs

pytestmark = pytest.mark.usefixtures("small_blocks")


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
    ids=["truncate", "alter", "remove"],
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


def test_a_damaged_shard_of_an_epoch_that_is_not_complete_is_mended_too(tmp_path):
    """Of a stream of which one of two parts is written, epochs 1 and 3; the other part is left to its own process."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path, 4, part=Part(1, 2))
    right = sha256s(tmp_path)
    paths = sorted((tmp_path / spec.folder).rglob("*.tar"))
    alter(paths[0])
    remove(paths[-1])
    assert len(verify_stream(spec, data, tmp_path)) == 2
    assert sha256s(tmp_path) == right
    assert verify_stream(spec, data, tmp_path) == []


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
    config = OmegaConf.to_object(compose("train", [f"stream.root={root}", "stream.verify=false"]))
    plan = SimpleNamespace(max_steps=None)
    run = SimpleNamespace(config=config, spec=spec, train=data, plan=plan, stream_grows=True)
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
        patch.setattr(writer, "core_count", lambda: 1)
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
        process.join(600)
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


def test_a_stream_that_another_machine_removes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    data, iterdir = noise(57, 3), Path.iterdir
    gone, kept = (spec_of(data, seed=seed) for seed in range(2))
    for spec in (gone, kept):
        write_stream(spec, data, tmp_path, 1)

    def listed(folder):
        if folder.name == gone.folder:
            raise OSError(errno.ESTALE, "Stale file handle")  # what NFS says
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert [stream.folder.name for stream in storage.stored_streams(tmp_path)] == [kept.folder]


def test_users_of_a_stream_leave_no_lock_files(tmp_path):
    def users():
        return len(list((tmp_path / ".locks").glob("some-0123456789abcdef.use-*")))

    with storage.in_use(tmp_path, "some-0123456789abcdef"), storage.in_use(tmp_path, "some-0123456789abcdef"):
        assert users() == 2
    assert users() == 0
    (tmp_path / ".locks" / "some-0123456789abcdef.use-1-killed").touch()
    with storage.in_use(tmp_path, "some-0123456789abcdef"):
        assert users() == 1, "the file of a killed user is removed"


def test_a_run_holds_its_stream_from_before_it_is_written(command, tmp_path, monkeypatch):
    """Another process that frees the disk between the last shard written and the first one read leaves it alone."""
    precompute, removed = runs.precompute, []

    def then_prune(run, console):
        run = precompute(run, console)
        removed.extend(storage.prune(tmp_path / "streams", 0))
        return run

    monkeypatch.setattr(runs, "precompute", then_prune)
    settings = (
        "model.width=8",
        "trainer=cpu",
        "trainer.precision=fp32",
        "budget.seconds=null",
        "schedule.max_epochs=0.1",
    )
    ended = command("train", *settings, "stream.root=streams")
    assert ended.code == 0, ended.err
    assert removed == []
    assert len(storage.prune(tmp_path / "streams", 0)) == 1, "and lets go of it"
