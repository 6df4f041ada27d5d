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
    """Paths of the shards that the manifest of the only stream in a folder names."""
    found = list(root.glob("*/manifest.json"))
    return [found[0].parent / name for name in json.loads(found[0].read_text())["shards"]] if found else []


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


def test_four_runs_at_once_write_a_stream_once(tmp_path, digits_root):
    overrides = (*SMALL, "trainer.num_threads=1", "budget.seconds=null", "schedule.max_epochs=0.5", "stream.epochs=300")
    streams = tmp_path / "streams"
    written, ended = {}, threading.Event()

    def watch():
        while not ended.is_set():
            for path in streams.glob("*/*/*.tar"):
                status = path.stat()
                written.setdefault(path, set()).add((status.st_ino, status.st_mtime_ns))
            ended.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    processes = [start("train", tmp_path, digits_root, *overrides, f"stream.root={streams}") for _ in range(4)]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    ended.set()
    watcher.join()
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert len(written) == 300
    assert {len(versions) for versions in written.values()} == {1}
    first, *others = [
        torch.load(path, weights_only=True)["state_dict"] for path in (tmp_path / "outputs").rglob("last.ckpt")
    ]
    assert len(others) == 3
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
