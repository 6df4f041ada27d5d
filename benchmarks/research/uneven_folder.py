"""Does objective=balanced_accuracy pay with `experiment=best` on a folder in which half of the classes are rare, 1:20?

PYTHONPATH=benchmarks python benchmarks/research/uneven_folder.py [images=cifar10,fashion_mnist] [seeds=0,1,2]
    [budget=40] [folder=FOLDER]

PNG files of CIFAR-10: of the classes 0, 2, 4, ... the first 2,000 training images each, of the classes 1, 3, 5, ... the
first 100, and all test images, 1,000 of each class. So the accuracy on them is the balanced accuracy. A row of
benchmarks/results/uneven_folder.csv per run that is not there yet, and uneven_folder.md: 50 seconds for each run. The
files stay in `folder`, a temporary one unless it is given.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from folders import DATA, class_names, machine, trained, write_folder
from measurements import RESULTS, append, describe_versions, is_measured, network_of, read, spread, table_head

import fastconv
from fastconv.data.loading import load
from fastconv.runs.results import Results

ROWS, TABLE = RESULTS / "uneven_folder.csv", RESULTS / "uneven_folder.md"
COUNTS = [2000, 100] * 5
PLAIN, BALANCED = OBJECTIVES = ("accuracy", "balanced_accuracy")
SCORES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy_tta": "with test-time augmentation",
    "macro_f1": "macro F1",
    "common_recall": "recall of the common classes",
    "rare_recall": "of the rare ones",
}
NOTE = f"""\
Of each common class {COUNTS[0]:,} training images, of each rare one {COUNTS[1]}; 1,000 test images of each class.
The mean ± standard deviation over the seeds, and each of them; gains are of pairs of equal seeds. Everything counts."""


def recalls(run: Path, name: str) -> np.ndarray:
    """The recall of each class, float [classes], on the test images: by predictions of the stored run."""
    _, test = load(name, DATA)
    names = np.array(class_names(test.classes))
    correct = np.array(fastconv.load(run).predict(test.images).names) == names[test.labels]
    return np.array([correct[test.labels == label].mean() for label in range(len(names))])


def measure(name: str, objective: str, seed: str, budget: str, root: Path) -> dict[str, object]:
    """Train on the folder, and return a row of the results."""
    settings = ("experiment=best", f"objective={objective}", f"budget.seconds={budget}", f"seed={seed}")
    with trained(root, *settings) as (run, _):
        results, found = Results.read(run), recalls(run, name)
    return {
        "precision": results.precision,
        "network": network_of(results),
        "balanced_accuracy": results.balanced_accuracy,
        "accuracy_tta": results.accuracy_tta,
        "macro_f1": results.macro_f1,
        "common_recall": found[::2].mean(),
        "rare_recall": found[1::2].mean(),
        "test_skipped": results.test_skipped,
        "epochs": results.epochs,
        "steps": results.steps,
        "batch_size": results.batch_size,
        "counted": results.seconds_counted,
        "git_commit": results.git_commit,
    }


def table() -> str:
    """The rows as a table: a line for each data set, budget and objective, and what the objective gains."""
    header = ["images", "budget", "objective", "n", *(f"{title} %" for title in SCORES.values()), "network", "machine"]
    lines = ["# A folder with rare classes", "", *table_head(header)]
    groups: dict[tuple[str, ...], dict[str, dict[str, dict[str, str]]]] = {}
    for row in read(ROWS):
        group = groups.setdefault(tuple(row[key] for key in ("images", "budget", "device", "precision")), {})
        group.setdefault(row["objective"], {})[row["seed"]] = row
    for (images, budget, *where), group in sorted(groups.items()):
        for objective, rows in group.items():
            scores = [spread([100 * float(row[key]) for row in rows.values()]) for key in SCORES]
            networks = ", ".join(dict.fromkeys(row["network"] for row in rows.values()))
            cells = [images, f"{budget} s", objective, str(len(rows)), *scores, networks, ", ".join(where)]
            lines.append(f"| {' | '.join(cells)} |")
        plain, balanced = (group.get(objective, {}) for objective in OBJECTIVES)
        if pairs := [(plain[seed], balanced[seed]) for seed in plain if seed in balanced]:
            scores = [spread([100 * (float(after[key]) - float(before[key])) for before, after in pairs], "+")
                      for key in SCORES]  # fmt: skip
            cells = [images, f"{budget} s", f"gain of {BALANCED}", str(len(pairs)), *scores, "", ", ".join(where)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main(images: str = "cifar10", seeds: str = "0,1,2", budget: str = "40", folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as aside:
        place = Path(folder or aside).absolute()
        place.mkdir(parents=True, exist_ok=True)
        for name, seed, objective in itertools.product(images.split(","), seeds.split(","), OBJECTIVES):
            wanted = {"images": name, "objective": objective, "seed": seed, "budget": budget, **machine()}
            if is_measured(ROWS, wanted):
                continue
            root = place / f"uneven-{name}"
            write_folder(name, root, COUNTS)
            about = {"date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
            append(ROWS, {**wanted, **measure(name, objective, seed, budget, root), **about})
            TABLE.write_text(table())
            print(table(), flush=True)


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
