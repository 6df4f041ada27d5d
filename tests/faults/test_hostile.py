"""All that somebody else might send, one after the other in a process of its own: what it takes of memory and time."""

import json
import os
import subprocess
import sys

import pytest
from harness import REPOSITORY

# Run folders, checkpoints, pages and results; servers, manifests, shards and tars; arrays, names and images.
SENT = sorted([*(REPOSITORY / "tests").rglob("test_hostile_*.py"), REPOSITORY / "tests" / "data" / "test_arrays.py"])
MOST_BYTES, MOST_CPU_SECONDS = 2 * 2**30, 5
MEASURE = """
import json, resource, sys, time
import pytest

seconds = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    began = time.process_time()
    yield
    seconds[item.nodeid] = time.process_time() - began


def pytest_sessionfinish():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open("measured.json", "w") as file:
        json.dump({"bytes": most, "seconds": seconds}, file)
"""


@pytest.mark.slow
def test_what_somebody_else_sends_takes_little_memory_and_time(tmp_path):
    """Less than 2 GB at its largest, and less than 5 s of the processor for each input."""
    (tmp_path / "measure.py").write_text(MEASURE)
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    settings = ["-q", "-p", "no:cacheprovider", "-p", "measure", "-c", REPOSITORY / "pyproject.toml", "-m", ""]
    command = [sys.executable, "-m", "pytest", *settings, f"--rootdir={REPOSITORY}", *SENT]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=1800
    )
    assert ended.returncode == 0, ended.stdout[-2000:]
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert len(measured["seconds"]) > 150
    assert measured["bytes"] < MOST_BYTES
    assert {name: spent for name, spent in measured["seconds"].items() if spent >= MOST_CPU_SECONDS} == {}
