"""Two ranks on this machine's CPU."""

import json
import re
import subprocess
import sys


def test_two_ranks_train_one_run(tmp_path, digits_root, monkeypatch):
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = ["dataset=digits", "trainer=ddp", "trainer.accelerator=cpu", "model.width=4", "micro_batch_size=32",
                 "figures=false"]  # fmt: skip
    command = [sys.executable, "-m", "fastconv.train", *overrides, "budget.seconds=2", "schedule.max_epochs=null"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr
    (path,) = (tmp_path / "outputs").rglob("results.json")
    found = json.loads(path.read_text())
    # In real time, of which two processes on a busy machine may get little: whatever they get, the schedule ends.
    assert found["stop_reason"] == "budget"
    assert found["final_lr"] <= 0.01
    assert found["accuracy"] is not None
    assert ended.stdout.count("of the test images") == 1, "one rank speaks"
    assert re.search(r"│ device +│ \S.*, 2 ranks +│", ended.stdout), "as those of a launcher see that all are one run"
