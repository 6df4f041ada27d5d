"""Calibration of experiment=best, before and after temperature scaling, and of the file that `export` writes.

python benchmarks/calibration.py [cifar10] [fashion_mnist] [budgets=30,100,300] [seeds=0,1,2]

Appends a row for each run to benchmarks/results/calibration.csv and makes calibration.md of all rows; runs that have a
row of this machine are skipped. A run takes its budget and about half a minute more, so whole it takes 50 minutes.
The exported file is scored with ONNX Runtime, or with torch (model.pt2) where ONNX Runtime is not installed.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measurements import RESULTS, append, describe_device, describe_versions, is_measured, network_of, read, table_head

from fastconv.analysis.evaluation.metrics import Evaluation
from fastconv.analysis.scoring import batches
from fastconv.budget.hardware import prepare
from fastconv.config.schema import Trainer
from fastconv.data.dataset import ImageData
from fastconv.data.loading import load
from fastconv.runs.results import Results, git_commit
from fastconv.system.json_text import as_json

ROWS, TABLE = RESULTS / "calibration.csv", RESULTS / "calibration.md"
FORMAT = "onnx" if importlib.util.find_spec("onnxruntime") else "torch"
DATA = Path(os.environ.get("FASTCONV_DATA", "data"))


def train(dataset: str, budget: str, seed: str, outputs: str) -> Path:
    """Train, export, and return the run's folder."""
    command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", "experiment=best", f"seed={seed}"]
    command += [f"budget.seconds={budget}", "figures=false", f"outputs={outputs}", f"stream.root={outputs}/streams"]
    subprocess.run(command, check=True)
    run = next(Path(outputs, dataset).iterdir())
    subprocess.run([sys.executable, "-m", "fastconv.export", f"run={run}", f"format={FORMAT}"], check=True)
    return run


def of_exported(run: Path, test: ImageData) -> Evaluation:
    """The predictions of the exported file, from raw test images."""
    parts = [np.array(test.images[part]) for part in batches(len(test), 500)]
    if FORMAT == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        found = [session.run(None, {given.name: part})[0] for part in parts]
    else:
        module = torch.export.load(run / "model.pt2").module()
        found = [module(torch.from_numpy(part)).numpy() for part in parts]
    return Evaluation(np.concatenate(found), np.asarray(test.labels), test.classes)


def table() -> str:
    """The rows as a table."""
    names = ("data set", "budget", "seed", "network", "epochs", "accuracy %", "with other views %", "counted s")
    names += ("temperature", "ECE before", "ECE", "ECE, exported", "machine")
    lines = ["# Calibration of experiment=best", "", *table_head(names)]
    for row in sorted(read(ROWS), key=lambda row: (row["dataset"], float(row["budget"]), row["device"], row["seed"])):
        cells = [row["dataset"], f"{row['budget']} s", row["seed"], row["network"], f"{float(row['epochs']):.1f}"]
        cells += [f"{100 * float(row['accuracy']):.2f}", f"{100 * float(row['accuracy_views'] or 'nan'):.2f}"]
        cells += [f"{float(row['seconds_counted']):.1f}", f"{float(row['temperature'] or 1):.3f}"]
        cells += [f"{float(row[key] or 'nan'):.4f}" for key in ("ece_unscaled", "ece", "ece_exported")]
        lines.append(f"| {' | '.join([*cells, row['device'] + ', ' + row['precision']])} |")
    note = (
        "Seconds from the start of the process to the written result. Temperature and ECE (expected calibration error,"
    )
    note += " 15 bins) are of test images as they are, without other views. n = 1 a row."
    return "\n".join([*lines, "", f"{note} Exported: as {FORMAT}."]) + "\n"


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments if "=" in each)
    datasets = [each for each in arguments if "=" not in each] or ["cifar10", "fashion_mnist"]
    for budget in options.get("budgets", "30,100,300").split(","):
        for seed in options.get("seeds", "0,1,2").split(","):
            for dataset in datasets:
                about = {"dataset": dataset, "budget": budget, "seed": seed, "device": describe_device()}
                about |= {"precision": prepare(Trainer()).precision}
                if is_measured(ROWS, about):
                    continue
                _, test = load(dataset, DATA)
                with tempfile.TemporaryDirectory() as outputs:
                    run = train(dataset, budget, seed, outputs)
                    results, exported = Results.read(run), of_exported(run, test)
                more = {
                    "network": network_of(results),
                    "epochs": results.epochs,
                    "accuracy": results.accuracy,
                    "accuracy_views": results.accuracy_tta,
                    "seconds_counted": results.seconds_counted,
                    "segments": as_json(results.seconds),
                    "temperature": results.temperature,
                    "ece_unscaled": results.expected_calibration_error_unscaled,
                    "ece": results.expected_calibration_error,
                    "ece_exported": exported.calibration_error,
                    "accuracy_exported": exported.accuracy,
                    "date": time.strftime("%Y-%m-%d"),
                    "versions": describe_versions(),
                    "git_commit": git_commit(),
                }
                append(ROWS, {**about, **more})
                TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
