"""Tests the budget as a contract: python benchmarks/budget.py

Trains with as many epochs as fit, for short and long budgets, and once with a hog that takes one of the cores from the
half on; records how much of each budget was counted, and what the plan had expected. Appends a row to
benchmarks/results/budget.csv for each finished run and skips the rows that this machine has. About half an hour.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurements import RESULTS, append, describe_device, describe_versions, read

TABLE = RESULTS / "budget.csv"
CASES = (
    ("digits", 20, False),
    ("digits", 60, False),
    ("digits", 60, True),
    ("digits", 200, False),
    ("fashion_mnist", 200, False),
    ("fashion_mnist", 1000, False),
)


def hog() -> None:
    """Keep one core busy until killed."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while True:
        pass


def train(dataset: str, seconds: float, disturbed: bool, *overrides: str) -> dict:
    """Return the results of a run, disturbed from half of its budget on if asked for."""
    with tempfile.TemporaryDirectory() as outputs:
        settings = [f"dataset={dataset}", f"budget.seconds={seconds}", "schedule.max_epochs=null", f"outputs={outputs}"]
        process = subprocess.Popen([sys.executable, "-m", "fastconv.train", *settings, *overrides])
        other = multiprocessing.get_context("spawn").Process(target=hog, daemon=True)
        while process.poll() is None:
            time.sleep(0.2)
            if disturbed and other.pid is None and counted(Path(outputs)) > seconds / 2:
                other.start()
        if other.pid is not None:
            other.kill()
        if process.returncode:
            raise SystemExit(process.returncode)
        (path,) = Path(outputs).rglob("results.json")
        return json.loads(path.read_text())


def counted(outputs: Path) -> float:
    """Return the counted seconds of a run so far."""
    return max((json.loads(path.read_text())["seconds_counted"] for path in outputs.rglob("results.json")), default=0.0)


def row(results: dict, disturbed: bool) -> dict[str, object]:
    seconds, counted, steps = results["budget_seconds"], results["seconds_counted"], results["steps"]
    step = results["seconds"]["train"] / steps
    # A run need not use what is left when another step would not fit surely.
    least = 0.97 - (step / seconds if step > 0.015 * seconds else 0.0)
    annealed = steps < 200 or results["final_lr"] <= 0.01
    return {
        "dataset": results["dataset"],
        "hog from the half on": "yes" if disturbed else "no",
        "budget_seconds": f"{seconds:g}",
        "seconds_counted": f"{counted:.2f}",
        "share": f"{counted / seconds:.4f}",
        "steps": steps,
        "step_seconds": f"{step:.4f}",
        "predicted_epochs": f"{results['expected_epochs']:.2f}",
        "epochs": f"{results['epochs']:.2f}",
        "final_lr": f"{results['final_lr']:.2e}",
        "accuracy": f"{results['accuracy']:.4f}",
        "kept": "yes" if least * seconds <= counted <= seconds and annealed else "NO",
        "precision": results["precision"],
        "device": describe_device(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": describe_versions(),
        "git_commit": results["git_commit"],
    }


def show() -> None:
    """Print and write the rows of this machine as a table."""
    about = ("device", "date", "versions", "git_commit")
    rows = [each for each in read(TABLE) if each["device"] == describe_device()]
    columns = [name for name in rows[0] if name not in about]
    lines = ["# The budget as a contract", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(each[name] for name in columns)} |" for each in rows]
    lines += [
        "",
        f"{describe_device()}; {rows[-1]['date']}; {describe_versions()}; n = 1 for each row. A budget is kept if the"
        " counted clock ends at or under it and at 97 % of it or more (less one step, where a step is longer than"
        " 1.5 % of it), with the last learning rate at 1 % of the peak or less.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    TABLE.with_suffix(".md").write_text(text)


def main() -> None:
    device = describe_device()
    for dataset, seconds, disturbed in CASES:
        wanted = (dataset, f"{seconds:g}", "yes" if disturbed else "no", device)
        done = [(each["dataset"], each["budget_seconds"], each["hog from the half on"], each["device"])
                for each in read(TABLE)]  # fmt: skip
        if wanted not in done:
            append(TABLE, row(train(dataset, seconds, disturbed), disturbed))
    show()


if __name__ == "__main__":
    main()
