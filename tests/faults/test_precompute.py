"""Writers that are killed, and several that want the same stream."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from harness import run_command, sha256s

pytestmark = pytest.mark.slow

SMALL = (
    "dataset=digits",
    "model.width=8",
    "batch_size=64",
    "micro_batch_size=32",
    "trainer=cpu",
    "trainer.precision=fp32",
)
KILLS = 20
EPOCHS = 1000


def start(name, folder, data, *overrides):
    """`python -m fastconv.NAME overrides ...` in a process of its own."""
    environment = {**os.environ, "FASTCONV_DATA": str(data), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"fastconv.{name}", *overrides]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def in_manifest(root):
    """Paths of the shards that the manifests of the only stream in a folder name: its own, and those of its parts."""
    found = root.glob("*/manifest.json*")
    return [each.parent / name for each in found for name in json.loads(each.read_text())["shards"]]


def test_a_killed_precompute_goes_on_where_it_was(tmp_path, digits_root):
    """SIGKILL after a random number of shards."""
    overrides = (*SMALL, "budget.seconds=9", f"stream.epochs={EPOCHS}")
    assert run_command(tmp_path, digits_root, "precompute", *overrides, "stream.epochs=1").code == 0  # benchmarks
    assert run_command(tmp_path, digits_root, "precompute", *overrides, "stream.root=right").code == 0
    right = sha256s(tmp_path / "right")
    chance = random.Random(0)
    kept_counts = []
    while len(kept_counts) < KILLS:
        root = tmp_path / "killed"
        shutil.rmtree(root, ignore_errors=True)
        process = start("precompute", tmp_path, digits_root, *overrides, f"stream.root={root}")
        wanted = chance.randrange(1, 2 * EPOCHS // 3)
        while len(list(root.glob("*/epoch-*"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        if (code := process.wait()) == 0:  # it was done already
            continue
        assert code == -signal.SIGKILL, process.stderr.read()
        kept = {path: path.stat().st_mtime_ns for path in in_manifest(root)}
        for path in kept:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == right[str(path.relative_to(root))]
        ended = run_command(tmp_path, digits_root, "precompute", *overrides, f"stream.root={root}")
        assert ended.code == 0, ended.err
        assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished shards are not written again"
        assert sha256s(root) == right
        assert not list(root.rglob("*.part"))
        kept_counts.append(len(kept))
    print(f"shards kept of {EPOCHS}: {sorted(kept_counts)}")
    assert min(kept_counts) < EPOCHS, "some were killed half-way"


PARTS = ("-m", "part=0,1,2,3", "parts=4", *SMALL)
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4")


@contextmanager
def watched(streams):
    """Yields the versions of each shard below a folder, (inode, time of change), as a thread sees them appear."""
    written, ended = {}, threading.Event()

    def watch():
        while not ended.is_set():
            for path in streams.glob("*/*/*.tar"):
                status = path.stat()
                written.setdefault(path, set()).add((status.st_ino, status.st_mtime_ns))
            ended.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield written
    finally:
        ended.set()
        watcher.join()


@pytest.mark.parametrize("launcher", [(), JOBLIB], ids=["one process", "joblib"])
def test_the_parts_of_a_sweep_write_each_shard_once(tmp_path, digits_root, launcher):
    assert run_command(tmp_path, digits_root, "precompute", *SMALL, "stream.epochs=40", "stream.root=right").code == 0
    streams = tmp_path / "streams"
    overrides = (*PARTS, "stream.epochs=40", f"stream.root={streams}", *launcher)
    with watched(streams) as written:
        process = start("precompute", tmp_path, digits_root, *overrides)
        error = process.communicate()[1]
    assert (process.returncode, error) == (0, "")
    assert len(written) == 40
    assert {len(versions) for versions in written.values()} == {1}
    assert sha256s(streams) == sha256s(tmp_path / "right")
    assert len(in_manifest(streams)) == 40
    assert [path.name for path in streams.glob("*/manifest*")] == ["manifest.json"]
    assert not (tmp_path / "outputs").exists(), "no folder of a sweep is left"


def workers_of(process):
    """The process ids of joblib's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"popen_loky" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_killed_part_is_done_again(tmp_path, digits_root):
    whole = (*SMALL, f"stream.epochs={EPOCHS}")
    assert run_command(tmp_path, digits_root, "precompute", *whole, "stream.root=right").code == 0
    streams = tmp_path / "streams"
    overrides = (*PARTS, f"stream.epochs={EPOCHS}", f"stream.root={streams}", *JOBLIB[:1], "hydra.launcher.n_jobs=2")
    process = start("precompute", tmp_path, digits_root, *overrides)
    while len(list(streams.glob("*/epoch-*"))) < EPOCHS // 10 and process.poll() is None:
        time.sleep(0.005)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 1
    assert error.startswith("fastconv: a process of the launcher was killed")
    assert error.count("\n") == 1
    done = {path: path.stat().st_mtime_ns for path in in_manifest(streams)}
    assert len(done) < EPOCHS
    again = start("precompute", tmp_path, digits_root, *overrides)
    assert (again.communicate()[1], again.returncode) == ("", 0)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "finished shards are not written again"
    assert sha256s(streams) == sha256s(tmp_path / "right")
    assert len(in_manifest(streams)) == EPOCHS


def test_four_runs_at_once_write_a_stream_once(tmp_path, digits_root):
    overrides = (*SMALL, "trainer.num_threads=1", "budget.seconds=null", "schedule.max_epochs=0.5", "stream.epochs=300")
    streams = tmp_path / "streams"
    with watched(streams) as written:
        processes = [start("train", tmp_path, digits_root, *overrides, f"stream.root={streams}") for _ in range(4)]
        errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert len(written) == 300
    assert {len(versions) for versions in written.values()} == {1}
    first, *others = [
        torch.load(path, weights_only=True)["state_dict"] for path in (tmp_path / "outputs").rglob("last.ckpt")
    ]
    assert len(others) == 3
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
