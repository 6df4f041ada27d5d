"""Tests the budget as a contract: python benchmarks/budget.py [load] [wall] [long] [--only TEXT]

  load    40 runs of 8 to 25 s, plain and best, on the digits and on a folder of 1,700 small images, beside one and two
          busy loops and beside another training: about 25 minutes on a quiet machine
  wall    best in 30, 100 and 300 s on each data set, alone and with a busy loop on one core from the middle on: about
          65 minutes; the seconds are those from the command to the result on the screen
  long    plain runs of 20 to 1000 s: about half an hour

Appends a row to benchmarks/results/budget.csv for each finished run and skips the rows that this machine has: delete
rows to measure them anew. Without a name, all are measured. --only keeps the runs in whose description TEXT occurs,
such as "digits, best, 8 s". Every run has a data folder of its own, so that it makes its benchmarks itself, with the
same work beside it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measurements import RESULTS, append, describe_device, provenance, read, table_head
from PIL import Image
from sklearn.datasets import load_digits

from fastconv.runs.results import git_commit

TABLE = RESULTS / "budget.csv"
ALONE, ONE, TWO, TRAINING = "nothing", "1 busy loop", "2 busy loops", "another training"
MIDDLE = "1 busy loop on a core from the middle on"
FOLDER = "a folder"
FOLDER_IMAGES = 1700


@dataclass(frozen=True)
class Case:
    """A run to measure, and what runs beside it."""

    kind: str
    dataset: str
    experiment: str
    seconds: float
    beside: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.dataset}, {self.experiment}, {self.seconds:g} s, beside {self.beside}"


CASES = [
    *(
        Case("load", dataset, experiment, seconds, beside)
        for seconds in (8, 15, 25)
        for beside in (ONE, TWO, TRAINING)
        for dataset in ("digits", FOLDER)
        for experiment in ("plain", "best")
    ),
    *(Case("load", "digits", experiment, 20, beside) for beside in (ONE, TWO) for experiment in ("plain", "best")),
    *(
        Case("wall", dataset, "best", seconds, beside)
        for seconds in (30, 100, 300)
        for dataset in ("digits", "mnist", "fashion_mnist", "cifar10")
        for beside in (ALONE, MIDDLE)
    ),
    *(
        Case("long", dataset, "plain", seconds, beside)
        for dataset, seconds, beside in (
            ("digits", 20, ALONE),
            ("digits", 60, ALONE),
            ("digits", 60, MIDDLE),
            ("digits", 200, ALONE),
            ("fashion_mnist", 200, ALONE),
            ("fashion_mnist", 1000, ALONE),
        )
    ),
]


def start_hog(core: int | None = None) -> subprocess.Popen[bytes]:
    """Keep one core busy until killed: the one given, or any."""
    pin = "" if core is None else f"import os; os.sched_setaffinity(0, [{core}])\n"
    return subprocess.Popen([sys.executable, "-c", f"{pin}while True: pass"])


def write_folder(root: Path) -> Path:
    """Write digits as PNG files of 16x16 pixels, in a folder for each class."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if number == FOLDER_IMAGES:
            break
        path = root / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8).repeat(2, 0).repeat(2, 1)).save(path)
    return root


def own_data(folder: Path) -> Path:
    """Make a data folder with the data sets of FASTCONV_DATA, and no benchmark or stream yet."""
    folder.mkdir()
    source = Path(os.environ.get("FASTCONV_DATA", "data")).absolute()
    for path in source.iterdir() if source.is_dir() else ():
        if path.name not in ("benchmarks", "streams", "arrays"):
            (folder / path.name).symlink_to(path)
    return folder


def command(case: Case, folder: Path) -> list[str]:
    settings = [f"dataset={case.dataset}"]
    if case.dataset == FOLDER:
        settings = ["dataset=image_folder", f"dataset.root={write_folder(folder / 'images')}"]
    settings += ["experiment=best"] if case.experiment == "best" else ["schedule.max_epochs=null"]
    settings += [f"budget.seconds={case.seconds:g}", f"data={own_data(folder / 'data')}", f"outputs={folder / 'runs'}"]
    settings += ["figures=false"] * (case.kind == "load")
    return [sys.executable, "-u", "-m", "fastconv.train", *settings]


@contextlib.contextmanager
def company(beside: str, folder: Path) -> Iterator[None]:
    """Within the block, something else keeps the machine busy from the start."""
    loops = [start_hog() for _ in range({ONE: 1, TWO: 2}.get(beside, 0))]
    training = None
    try:
        if beside == TRAINING:
            (folder / "other").mkdir()
            other = command(Case("load", "digits", "plain", 3600, ALONE), folder / "other")
            training = subprocess.Popen(other, stdout=subprocess.DEVNULL)
            while not any((folder / "other").rglob("last.ckpt")):
                if training.poll() is not None:
                    raise SystemExit("the other training has ended")
                time.sleep(0.5)
        time.sleep(1)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
        if training:
            training.kill()
            training.wait()


def measure(case: Case) -> dict[str, object]:
    """Run a case; return its row."""
    seen: dict[str, float] = {}

    def listen(process: subprocess.Popen[str], started: float) -> None:
        for line in process.stdout or ():
            seen.setdefault("first", time.monotonic() - started)
            if line.startswith("result"):
                seen["result"] = time.monotonic() - started

    with tempfile.TemporaryDirectory() as name:
        folder, loop = Path(name), None
        with company(case.beside, folder):
            words = command(case, folder)
            started = time.monotonic()
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            listener = threading.Thread(target=listen, args=(process, started))
            listener.start()
            while process.poll() is None:
                time.sleep(0.05)
                if case.beside == MIDDLE and loop is None and time.monotonic() - started > case.seconds / 2:
                    loop = start_hog(max(os.sched_getaffinity(0)))
            listener.join()
            seconds = time.monotonic() - started
        if loop:
            loop.kill()
            loop.wait()
        found = {}
        if process.returncode == 0:
            (path,) = (folder / "runs").rglob("results.json")
            found = json.loads(path.read_text())
        error = (process.stderr.read() if process.stderr else "").strip().splitlines()
        return row(case, found, seen, seconds, error[-1] if error and process.returncode else "")


def row(case: Case, found: dict, seen: dict[str, float], seconds: float, error: str) -> dict[str, object]:
    counted, steps, lr = (found.get(key) or 0.0 for key in ("seconds_counted", "steps", "final_lr"))
    wall = seen.get("result", seconds)
    # With few steps, the last one's learning rate is not far from that of the one before.
    annealed = bool(found) and lr <= max(0.01, min(0.1, 2 / max(steps, 1)))
    step = found["seconds"]["train"] / steps if found else 0.0
    # A run need not use what is left when another step would not fit surely.
    least = 0.97 - (step / case.seconds if step > 0.015 * case.seconds else 0.0)
    kept = annealed and counted <= case.seconds
    if case.kind != "load":
        kept &= counted >= least * case.seconds
    if case.kind == "wall":
        kept &= wall <= case.seconds + 1
    return {
        "kind": case.kind,
        "dataset": case.dataset,
        "experiment": case.experiment,
        "beside": case.beside,
        "budget_seconds": f"{case.seconds:g}",
        "seconds_counted": f"{counted:.2f}",
        "share": f"{counted / case.seconds:.4f}",
        "wall_seconds": f"{wall:.2f}",
        "first_line_seconds": f"{seen.get('first', seconds):.2f}",
        "setup_seconds": f"{found['seconds']['setup'] if found else 0.0:.2f}",
        "test_seconds": f"{found['seconds']['test'] if found else 0.0:.2f}",
        "steps": steps,
        "step_seconds": f"{step:.4f}",
        "final_lr": f"{lr:.2e}",
        "accuracy": f"{found.get('accuracy') or 0.0:.4f}",
        "tta_skipped": found.get("tta_skipped", 0),
        "refused": error,
        "kept": "yes" if kept else "NO",
        "precision": found.get("precision", ""),
        **provenance(),
        "git_commit": git_commit(),
    }


def show() -> None:
    """Print and write the rows of this machine as tables, each with its worst row."""
    about = ("kind", "device", "date", "versions", "git_commit")
    rows = [each for each in read(TABLE) if each["device"] == describe_device()]
    if not rows:  # only other machines have some, whose table stays
        return

    def measured(key: str) -> str:
        return ", ".join(sorted({each[key] for each in rows}))

    lines = ["# The budget as a contract", ""]
    titles = {"load": "Beside other work", "wall": "From the command to the result", "long": "Long runs"}
    for kind, title in titles.items():
        of_kind = [each for each in rows if each["kind"] == kind]
        if not of_kind:
            continue
        columns = [name for name in of_kind[0] if name not in about]
        key = "wall_seconds" if kind == "wall" else "seconds_counted"
        worst = max(of_kind, key=lambda each: float(each[key]) - float(each["budget_seconds"]))
        broken = sum(each["kept"] != "yes" for each in of_kind)
        described = f"{worst['dataset']}, {worst['experiment']}, beside {worst['beside']}"
        lines += [
            f"## {title}",
            "",
            f"{len(of_kind)} runs, {broken} of them not kept. The worst: {worst[key]} s of {worst['budget_seconds']} s"
            f" ({described}).",
            "",
            *table_head(columns),
            *(f"| {' | '.join(each[name] for name in columns)} |" for each in of_kind),
            "",
        ]
    lines.append(
        f"{describe_device()}; {measured('date')}; {measured('versions')}; n = 1 for each row. A budget is kept if the"
        " counted clock ends at or under it, with the last learning rate at 1 % of the peak or less (or two steps'"
        " worth of it), in long runs and from the command at 97 % of it or more (less one step, where a step is longer"
        " than 1.5 % of it), and from the command if the result is there within a second after it. Plain runs count"
        " training and validation, best everything from the start of the process."
    )
    text = "\n".join(lines) + "\n"
    print(text)
    TABLE.with_suffix(".md").write_text(text)


def is_done(case: Case) -> bool:
    names = ("kind", "dataset", "experiment", "beside", "budget_seconds", "device")
    wanted = (case.kind, case.dataset, case.experiment, case.beside, f"{case.seconds:g}", describe_device())
    return any(tuple(each[name] for name in names) == wanted for each in read(TABLE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="load|wall|long")
    parser.add_argument("--only", default="", metavar="TEXT")
    given = parser.parse_args()
    for case in CASES:
        if case.kind in (given.kinds or ("load", "wall", "long")) and given.only in str(case) and not is_done(case):
            print(case, flush=True)
            append(TABLE, measure(case))
    show()


if __name__ == "__main__":
    main()
