"""Processes that train, for the tests that disturb them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("disturbed.py")
SMALL = ("dataset=digits", "model.width=8", "batch_size=64", "norm_batch=32", "trainer.precision=fp32")


def start(folder, data, *overrides, script=(str(SCRIPT),), **environment):
    """A training process in a folder, with its output kept there."""
    settings = {**os.environ, "FASTCONV_DATA": str(data), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    settings.pop("FASTCONV_FIRST_RANK", None)
    with (folder / "out.txt").open("a") as out, (folder / "err.txt").open("w") as err:
        command = [sys.executable, *script, *overrides]
        return subprocess.Popen(command, cwd=folder, env={**settings, **environment}, stdout=out, stderr=err)


def finish(folder, data, *overrides, **environment):
    """Run a training process to its end; return its exit code and what it said on standard error."""
    code = start(folder, data, *overrides, **environment).wait(600)
    return code, (folder / "err.txt").read_text()


def rows(folder, rank):
    """What the processes of a rank recorded, one after the other."""
    files = sorted(folder.glob(f"{rank}-*.csv"), key=lambda path: path.stat().st_mtime)
    return [[row for row in csv.DictReader(path.open()) if row["ended"]] for path in files]


def only_run(folder):
    (run,) = (path.parent for path in (folder / "outputs").rglob("config.yaml"))
    return run


def same_weights(one, other):
    first, second = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)
