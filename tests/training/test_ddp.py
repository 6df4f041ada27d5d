"""Two ranks on this machine's CPU."""

import json
import subprocess
import sys


def test_two_ranks_train_one_run(tmp_path, digits_root, monkeypatch):
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = ["dataset=digits", "trainer=ddp", "trainer.accelerator=cpu", "model.width=8", "micro_batch_size=32"]
    command = [sys.executable, "-m", "fastconv.train", *overrides, "budget.seconds=15", "schedule.max_epochs=null"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (path,) = (tmp_path / "outputs").rglob("results.json")
    found = json.loads(path.read_text())
    assert found["stop_reason"] == "budget"
    assert found["final_lr"] <= 0.01
    assert found["accuracy"] > 0.9
    assert ended.stdout.count("of the test images") == 1, "one rank speaks"
