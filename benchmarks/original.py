"""The article's experiment on its three data sets, one budget of 1000 s each: python benchmarks/original.py

Appends a row for each finished run to benchmarks/results/original.csv and keeps the run's files beside it; data sets
that have a row are skipped, so it can be stopped and started again. Takes about an hour on two cores.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "original.csv"
DATASETS = ("fashion_mnist", "cifar10", "mnist")
KEPT = ("metrics.csv", "augmented.png", "schedule.png", "curves.png")


def finished() -> set[str]:
    """Data sets that have a row."""
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="") as file:
        return {row["dataset"] for row in csv.DictReader(file)}


def append(row: dict[str, object]) -> None:
    """Add a row to the table, with its header if it is the first."""
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    for dataset in DATASETS:
        if dataset in finished():
            continue
        with tempfile.TemporaryDirectory() as outputs:
            command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", "experiment=original"]
            subprocess.run([*command, "budget.seconds=1000", f"outputs={outputs}"], check=True)
            (run,) = Path(outputs, dataset).iterdir()
            results = json.loads((run / "results.json").read_text())
            # Where the run's files lay for a while is of no interest to a reader of the table.
            results["overrides"] = [each for each in results["overrides"] if not each.startswith("outputs=")]
            kept = RESULTS / "original" / dataset
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "results.json").write_text(json.dumps(results, indent=1))
            for name in KEPT:
                shutil.copy(run / name, kept / name)
        append(
            {
                "dataset": dataset,
                "n": 1,
                "accuracy": round(results["accuracy"], 4),
                "epochs": round(results["epochs"], 2),
                "seconds_counted": round(results["seconds_counted"], 1),
                "budget_seconds": results["budget_seconds"],
                "final_lr": results["final_lr"],
                "images_per_second": round(results["images_per_second"], 1),
                "data_wait_fraction": round(results["data_wait_fraction"], 5),
                "peak_memory_mb": round(results["peak_memory_mb"]),
                **{f"{segment}_seconds": round(spent, 1) for segment, spent in results["seconds"].items()},
                "device": f"{results['device']}, {os.cpu_count()} cores",
                "precision": results["precision"],
                "date": time.strftime("%Y-%m-%d"),
                "versions": " ".join(f"{name} {version}" for name, version in results["versions"].items()),
                "git_commit": results["git_commit"],
            }
        )


if __name__ == "__main__":
    main()
