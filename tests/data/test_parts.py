"""Several processes write one stream: each shard once, the bytes as of one process, whatever happens to one of them."""

import multiprocessing
import os
import socket
import subprocess
import sys
import threading

import pytest
from harness import noise, sha256s, spec_of

from fastconv.data.stream import parts
from fastconv.data.stream import spec as stream
from fastconv.data.stream.cache import prune
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.parts import WHOLE, Part, missing_parts
from fastconv.data.stream.writer import verify_stream, write_stream
from fastconv.system.errors import InputError
from fastconv.system.files import locked
from fastconv.training import stored_stream

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
    write, removed = stored_stream.write_stream, []

    def then_prune(*given, **more):
        folder = write(*given, **more)
        removed.extend(prune(tmp_path / "streams", 0))
        return folder

    monkeypatch.setattr(stored_stream, "write_stream", then_prune)
    ended = command("precompute", "part=0", "parts=2", "stream.epochs=3", "stream.root=streams", *STREAM)
    assert ended.code == 0, ended.err
    assert removed == []
    assert len(prune(tmp_path / "streams", 0)) == 1, "and then it may go"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("part=2", "parts=2", "stream.epochs=3"), "part=2 is not possible: with parts=2 it is 0 to 1"),
        (("part=1", "parts=2"), "give it, such as stream.epochs=25"),
        (("part=1", "parts=2", "stream.epochs=3", "verify=true"), "leave it out with verify and prune"),
        (("part=1", "parts=2", "stream.epochs=3", "experiment=best"), "autotune may choose another on each machine"),
    ],
)
def test_parts_that_cannot_be(command, given, line):
    ended = command("precompute", *STREAM, *given)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert line in ended.err


def test_a_part_that_is_written_already_is_waited_for_and_blocks_no_other(tmp_path, whole):
    """The second process for a part says which one has it. Meanwhile others begin and end, and then it has nothing to
    do."""
    data, spec, _ = whole
    root, said, waiting, begun = tmp_path / "parts", [], threading.Event(), threading.Event()

    def first(done, total):
        begun.set()
        assert waiting.wait(60)

    def second():
        write_stream(spec, data, root, EPOCHS, written.append, part=Part(1, PARTS), on_wait=waits)

    def waits(whom):
        said.append(whom)
        waiting.set()

    written = []
    threads = [
        threading.Thread(target=lambda: write_stream(spec, data, root, EPOCHS, first, part=Part(1, PARTS))),
        threading.Thread(target=second),
    ]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    assert waiting.wait(60)
    for thread in threads:
        thread.join(60)
    assert said == [f"process {os.getpid()} on {socket.gethostname()}, which writes part=1 of parts=4 of"
                    f" {root / spec.folder}"]  # fmt: skip
    assert written == []
    assert not list(root.glob(".locks/*.holder")), "nobody writes any more"


def test_a_part_that_waits_holds_nothing(tmp_path, whole):
    data, spec, _ = whole
    waiting = threading.Event()
    with locked(tmp_path, Part(1, PARTS).lock(spec)):
        note = tmp_path / ".locks" / f"{Part(1, PARTS).lock(spec)}.holder"
        note.write_text("process 12 on node7")
        second = threading.Thread(
            target=write_stream, args=(spec, data, tmp_path, EPOCHS),
            kwargs={"part": Part(1, PARTS), "on_wait": lambda whom: waiting.set()},
        )  # fmt: skip
        second.start()
        assert waiting.wait(60)
        other = threading.Thread(
            target=write_stream, args=(spec, data, tmp_path, EPOCHS), kwargs={"part": Part(2, PARTS)}
        )
        other.start()
        other.join(60)
        assert not other.is_alive()
        found = missing_parts(tmp_path, spec, PARTS, EPOCHS)
        assert [(each.part.number, each.epochs, each.writer) for each in found] == [
            (0, 2, ""), (1, 2, "process 12 on node7"), (3, 2, "")
        ]  # fmt: skip
    second.join(60)
    assert [each.part.number for each in missing_parts(tmp_path, spec, PARTS, EPOCHS)] == [0, 3]


def test_a_writer_waits_for_another_one_until_its_time_is_over(tmp_path, whole, monkeypatch):
    """As of a budget that counts precomputing: another process may write for an hour."""
    data, spec, _ = whole
    monkeypatch.setattr(parts, "LOOK_SECONDS", 0.0)
    looks = iter([False] * 5)
    waiting = threading.Thread(
        target=write_stream, args=(spec, data, tmp_path, 1), kwargs={"is_over": lambda: next(looks, True)}
    )
    with locked(tmp_path, WHOLE.lock(spec)):
        waiting.start()
        waiting.join(60)
        assert not waiting.is_alive()
    assert not (tmp_path / spec.folder).exists()


def test_a_part_says_which_others_are_still_to_be_written(command):
    """One of an array of jobs may fail for ever: the last of the others must not end as if all was well."""
    given = ("precompute", "parts=3", "stream.epochs=5", "stream.root=parts", *STREAM)
    assert command(*given, "part=0").out.endswith(
        "the stream lacks 3 of its 5 epochs: part=1 (no process writes it), part=2 (no process writes it)\n"
    )
    assert command(*given, "part=2").out.endswith("the stream lacks 2 of its 5 epochs: part=1 (no process writes it)\n")
    assert command(*given, "part=1").out.endswith("the stream has all its 5 epochs\n")


def test_a_stream_of_given_length_is_written_without_torch(tmp_path, digits_root):
    """Its import takes as long as several epochs, in each of many parts; and the stream is that of the run."""
    script = "import sys; from fastconv.precompute import main; main(); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", script, "stream.epochs=2", "stream.root=s", *STREAM, f"data={digits_root}",
               "label_smoothing=0.1", "objective=macro_f1"]  # fmt: skip
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "s").glob("digits-*")
    planned = [sys.executable, "-m", "fastconv.precompute", *command[3:], "stream.epochs=null", "budget.seconds=null",
               "schedule.max_epochs=2"]  # fmt: skip
    assert subprocess.run(planned, cwd=tmp_path).returncode == 0
    assert list((tmp_path / "s").glob("digits-*")) == [folder]
