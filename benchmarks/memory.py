"""Peak memory of whole runs: DavidNet on CIFAR-10 under several budgets, and a narrow one over many epochs.

python benchmarks/memory.py          about 12 minutes on two cores; the data sets are looked for in FASTCONV_DATA
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measurements import Table

MEMORY = Table("memory", "Peak memory of a CIFAR-10 run", "MB")
RUNS = {
    "20 s": ["budget.seconds=20"],
    "60 s": ["budget.seconds=60"],
    "240 s": ["budget.seconds=240"],
    "width 16, 1 epoch": ["model.width=16", "budget.seconds=null", "schedule.max_epochs=1"],
    "width 16, 6 epochs": ["model.width=16", "budget.seconds=null", "schedule.max_epochs=6"],
}


def peak(overrides: list[str]) -> float:
    """MB that the whole process of a run has had at most."""
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "fastconv.train", "dataset=cifar10", f"outputs={outputs}", *overrides]
        subprocess.run(command, check=True, capture_output=True)
        (results,) = Path(outputs).rglob("results.json")
        return json.loads(results.read_text())["peak_memory_mb"]


def main() -> None:
    for name, overrides in RUNS.items():
        if MEMORY.lacks(0, name):
            MEMORY.add(0, name, peak(overrides))
    MEMORY.show(note="Of the whole process, from start to end; memory-mapped files count as far as they are in use.")


if __name__ == "__main__":
    main()
