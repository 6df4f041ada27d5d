"""Several processes write one stream: each shard once, the bytes as of one process, whatever happens to one of them."""

import multiprocessing

import pytest
from harness import noise, sha256s, spec_of

from fastconv.data.stream import spec as stream
from fastconv.data.stream.cache import prune
from fastconv.data.stream.parts import WHOLE, Part
from fastconv.data.stream.spec import Manifest
from fastconv.data.stream.writer import verify_stream, write_stream
from fastconv.system.errors import InputError
from fastconv.system.files import locked
from fastconv.training import run_stream

pytestmark = pytest.mark.usefixtures("small_blocks")
EPOCHS, PARTS = 8, 4


@pytest.fixture
def whole(tmp_path):
    """(images, spec, sha256 of each shard as one process writes them)."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "whole", EPOCHS)
    return data, spec, sha256s(tmp_path / "whole")


def write_part(spec, data, root, part, barrier, answers):
    stream.BLOCK_SAMPLES, stream.BLOCKS_PER_SHARD = 10, 3
    written = []
    barrier.wait()
    write_stream(spec, data, root, EPOCHS, on_shard=lambda done, total: written.append(done), part=part)
    answers.put(len(written))


def test_four_processes_write_each_shard_once(tmp_path, whole):
    data, spec, right = whole
    root = tmp_path / "parts"
    context = multiprocessing.get_context("forkserver")
    barrier, answers = context.Barrier(PARTS), context.Queue()
    processes = [
        context.Process(target=write_part, args=(spec, data, root, Part(number, PARTS), barrier, answers))
        for number in range(PARTS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    share = len(right) // PARTS
    assert [answers.get(timeout=5) for _ in processes] == [share] * PARTS
    assert sha256s(root) == right
    assert Manifest.read(root / spec.folder, spec).epochs == EPOCHS
    assert [path.name for path in (root / spec.folder).glob("manifest*")] == ["manifest.json"]
    assert verify_stream(spec, data, root) == []


def test_a_part_that_was_stopped_is_finished(tmp_path, whole):
    data, spec, right = whole
    root, written = tmp_path / "parts", []

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stream(spec, data, root, EPOCHS, on_shard=stop, part=Part(1, PARTS))
    kept = Manifest.read(root / spec.folder, spec, Part(1, PARTS).manifest).shards
    assert 2 <= len(kept) < len(right) // PARTS + 1
    for number in range(PARTS):
        write_stream(
            spec, data, root, EPOCHS, on_shard=lambda done, total: written.append(done), part=Part(number, PARTS)
        )
    assert len(written) == len(right) - len(kept)
    assert sha256s(root) == right


def test_the_whole_takes_over_what_parts_have_left(tmp_path, whole):
    data, spec, right = whole
    root, written = tmp_path / "parts", []

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_stream(spec, data, root, EPOCHS, on_shard=stop, part=Part(2, PARTS))
    kept = Manifest.read(root / spec.folder, spec, Part(2, PARTS).manifest).shards
    write_stream(spec, data, root, EPOCHS, on_shard=lambda done, total: written.append(done))
    assert len(written) == len(right) - len(kept)
    assert sha256s(root) == right
    assert verify_stream(spec, data, root) == []


def test_nobody_writes_what_another_one_writes(tmp_path, whole):
    data, spec, _ = whole
    with locked(tmp_path, f"{spec.folder}.write.1-of-4"):
        write_stream(spec, data, tmp_path, EPOCHS, wait=False, part=Part(1, 4))  # left to the other
        write_stream(spec, data, tmp_path, EPOCHS, wait=False, part=WHOLE)
        with pytest.raises(InputError, match="is being written in 4 parts: give parts=4"):
            write_stream(spec, data, tmp_path, EPOCHS, part=Part(0, 3))
        assert not sha256s(tmp_path / spec.folder)
        write_stream(spec, data, tmp_path, EPOCHS, part=Part(0, 4))
    assert {name.split("/")[0] for name in sha256s(tmp_path / spec.folder)} == {"epoch-0000", "epoch-0004"}


def test_a_manifest_that_another_part_is_writing_is_left_alone(tmp_path, whole):
    """A part replaces its manifest every second; killed meanwhile, it leaves the unfinished file."""
    data, spec, right = whole
    root = tmp_path / "parts"
    unfinished = root / spec.folder / "manifest.json.1-of-2.0123456789ab.part"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text('{"format": 1, "sha')
    write_stream(spec, data, root, EPOCHS, part=Part(0, 2))
    assert unfinished.exists(), "its writer may be about to rename it"
    write_stream(spec, data, root, EPOCHS, part=Part(1, 2))
    write_stream(spec, data, root, EPOCHS + 1)
    assert not unfinished.exists()
    assert right.items() <= sha256s(root).items()
    assert Manifest.read(root / spec.folder, spec).epochs == EPOCHS + 1


STREAM = ("dataset=digits", "augment=standard", "batch_size=64", "micro_batch_size=32")


def test_the_command_writes_parts(command, tmp_path):
    ended = command("precompute", "-m", "part=0,1", "parts=2", "stream.epochs=3", "stream.root=parts", *STREAM)
    assert ended.code == 0, ended.err
    assert command("precompute", "stream.epochs=3", "stream.root=whole", *STREAM).code == 0
    assert sha256s(tmp_path / "parts") == sha256s(tmp_path / "whole") != {}


def test_a_stream_is_not_removed_while_a_part_of_it_is_written(command, tmp_path, monkeypatch):
    """Another process makes room just before the manifests of the parts are put together."""
    write, removed = run_stream.write_stream, []

    def then_prune(*given, **more):
        folder = write(*given, **more)
        removed.extend(prune(tmp_path / "streams", 0))
        return folder

    monkeypatch.setattr(run_stream, "write_stream", then_prune)
    ended = command("precompute", "part=0", "parts=2", "stream.epochs=3", "stream.root=streams", *STREAM)
    assert ended.code == 0, ended.err
    assert removed == []
    assert len(prune(tmp_path / "streams", 0)) == 1, "and then it may go"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("part=2", "parts=2", "stream.epochs=3"), "part=2 is not possible: with parts=2 it is 0 to 1"),
        (("part=1", "parts=2"), "give stream.epochs=25"),
        (("part=1", "parts=2", "stream.epochs=3", "verify=true"), "verify and prune are of a whole one"),
    ],
)
def test_parts_that_cannot_be(command, given, line):
    ended = command("precompute", *STREAM, *given)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert line in ended.err
