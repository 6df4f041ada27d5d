"""The article's experiment on its three data sets, one budget of 1000 s each: python benchmarks/original.py

Appends a row for each finished run to benchmarks/results/original.csv and keeps the run's files beside it; data sets
that have a row of this machine are skipped, so it can be stopped and started again. About an hour on two cores.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurements import RESULTS, append, describe_device, describe_versions, read

TABLE = RESULTS / "original.csv"
DATASETS = ("fashion_mnist", "cifar10", "mnist")
KEPT = ("metrics.csv", "augmented.png", "schedule.png", "curves.png")


def train(dataset: str, kept: Path, *overrides: str) -> dict:
    """Run the experiment; return its results and keep its files."""
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", "experiment=original", *overrides]
        subprocess.run([*command, f"outputs={outputs}"], check=True)
        (run,) = Path(outputs, dataset).iterdir()
        results = json.loads((run / "results.json").read_text())
        # Where the run's files lay for a while is of no interest to a reader of the table.
        results["overrides"] = [each for each in results["overrides"] if not each.startswith("outputs=")]
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "results.json").write_text(json.dumps(results, indent=1))
        for name in KEPT:
            shutil.copy(run / name, kept / name)
    return results


def main(folder: str = "original") -> None:
    device = describe_device()
    for dataset in DATASETS:
        if (dataset, device) in {(row["dataset"], row["device"]) for row in read(TABLE)}:
            continue
        results = train(dataset, RESULTS / folder / dataset, "budget.seconds=1000")
        append(
            TABLE,
            {
                "dataset": dataset,
                "n": 1,
                "accuracy": round(results["accuracy"], 4),
                "epochs": round(results["epochs"], 2),
                "seconds_counted": round(results["seconds_counted"], 1),
                "budget_seconds": results["budget_seconds"],
                "final_lr": results["final_lr"],
                "images_per_second": round(results["images_per_second"], 1),
                "dataloader_wait_fraction": round(results["dataloader_wait_fraction"], 5),
                "peak_memory_mb": round(results["peak_memory_mb"]),
                **{f"{segment}_seconds": round(spent, 1) for segment, spent in results["seconds"].items()},
                "device": device,
                "precision": results["precision"],
                "date": time.strftime("%Y-%m-%d"),
                "versions": describe_versions(),
                "git_commit": results["git_commit"],
            },
        )


if __name__ == "__main__":
    main()
