"""How long OpenMP's threads wait, which is set before torch is loaded."""

import os
import subprocess
import sys

import pytest
from harness import REPOSITORY

SCRIPT = "import os, sys; {first}from fastconv.system.openmp import wait_briefly; wait_briefly();"
SCRIPT += "print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("first", "given", "spins"),
    [
        ("", {}, "10000"),
        ("", {"GOMP_SPINCOUNT": "100"}, "100"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("sys.modules['torch'] = os; ", {}, "None"),
    ],
    ids=["open", "set", "set otherwise", "torch is loaded"],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(first, given, spins):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    ended = subprocess.run(command, env={**kept, **given}, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == spins
