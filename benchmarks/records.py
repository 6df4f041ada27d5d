"""The records, seed by seed: python benchmarks/records.py [name ...] [key=value ...]

Names are those of `RECORDS`, or name:seed for one seed alone; without one, all of them: some seven hours on two cores.
Appends a row for each finished run to benchmarks/results/records.csv and makes benchmarks/results/records.md of all
rows. Runs that have a row of this machine are skipped, and one that was stopped goes on, so it can be stopped and
started again. With settings (such as budget.seconds=100) the rows are marked with them, and are a record of their own.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from measurements import (
    RESULTS,
    append,
    describe_device,
    finished_run,
    is_measured,
    provenance,
    read,
    spread,
    table_head,
)

from fastconv.analysis.comparison.statistics import summarise
from fastconv.runs.results import Results

ROWS, TABLE = RESULTS / "records.csv", RESULTS / "records.md"
RUNS = Path("outputs/records")
# Segments that a result takes, whatever its budget counts; the speed profile is cached for later runs.
SEGMENTS = ("precompute", "compile", "train", "validate", "test")


@dataclass(frozen=True)
class Record:
    """An experiment on a data set, and the seeds it is run with."""

    dataset: str
    experiment: str
    seeds: range
    settings: tuple[str, ...] = ()


RECORDS = {
    "cifar10-speedrun": Record("cifar10", "speedrun", range(5)),
    "cifar10-speedrun-whole": Record("cifar10", "speedrun", range(5), ("budget.seconds=null",)),
    "fashion_mnist-speedrun": Record("fashion_mnist", "speedrun", range(3), ("schedule.max_epochs=12",)),
    "mnist-speedrun": Record("mnist", "speedrun", range(3)),
    "cifar10-davidnet_fast": Record("cifar10", "davidnet_fast", range(3)),
    "cifar10-original": Record("cifar10", "original", range(3)),
}


def train(name: str, record: Record, seed: int, settings: tuple[str, ...]) -> Results:
    """One run, or the rest of one that was stopped; a finished one is only read."""
    folder = RUNS / "-".join((name, *(each.replace("/", "_") for each in settings))) / str(seed)
    if finished_run(folder, record.dataset) is None:
        chosen = [f"dataset={record.dataset}", f"experiment={record.experiment}", f"seed={seed}"]
        command = [sys.executable, "-m", "fastconv.train", *chosen, *record.settings, *settings]
        subprocess.run([*command, f"outputs={folder}", "resume=auto"], check=True)
    return Results.read(finished_run(folder, record.dataset))


def row(record: Record, seed: int, settings: tuple[str, ...], results: Results) -> dict[str, object]:
    spent = {f"{segment}_seconds": round(results.seconds.get(segment, 0.0), 1) for segment in SEGMENTS}
    return {
        "dataset": record.dataset,
        "experiment": record.experiment,
        "settings": " ".join((*record.settings, *settings)),
        "seed": seed,
        "accuracy": round(results.accuracy, 5),
        "accuracy_tta": round(results.accuracy_tta, 5),
        "epochs": round(results.epochs, 3),
        "seconds": round(sum(spent.values()), 1),
        **spent,
        "petaflop": round(results.petaflop, 4),
        "images_per_second": round(results.images_per_second, 1),
        "precision": results.precision,
        **provenance(),
        "git_commit": results.git_commit,
    }


def score(rows: list[dict[str, str]], key: str = "accuracy_tta") -> str:
    return spread([100 * float(each[key]) for each in rows])


def table() -> str:
    """The rows as a person reads them: a line for each record and machine."""
    columns = ("data set", "experiment", "n", "accuracy %", "with TTA %", "epochs", "seconds in all", "precompute",
               "compile", "train", "validate", "test", "PFLOP", "images/s", "precision", "machine")  # fmt: skip
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for each in read(ROWS):
        keys = ("dataset", "experiment", "settings", "device", "precision")
        groups.setdefault(tuple(each[key] for key in keys), []).append(each)
    lines = ["# Records", "", *table_head(columns)]
    for (dataset, experiment, settings, device, precision), rows in groups.items():

        def mean(key: str, digits: int, rows: list[dict[str, str]] = rows) -> str:
            return f"{summarise(float(each[key]) for each in rows).mean:,.{digits}f}"

        cells = [dataset, f"{experiment} {settings}".strip(), str(len(rows)), score(rows, "accuracy"), score(rows)]
        cells += [mean("epochs", 2), mean("seconds", 0), *(mean(f"{segment}_seconds", 1) for segment in SEGMENTS)]
        cells += [mean("petaflop", 3), mean("images_per_second", 0), precision, device]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Mean ± standard deviation over the seeds 0, 1, ..., and each of them; seconds are means. `seconds in all` are"
        " precompute + compile + train + validate + test. PFLOP: forward and backward of all training images. Versions"
        " and commits: records.csv."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main(*arguments: str) -> None:
    settings = tuple(each for each in arguments if "=" in each)
    names = [each for each in arguments if "=" not in each] or list(RECORDS)
    for name, _, only in (each.partition(":") for each in names):
        record = RECORDS[name]
        for seed in [int(only)] if only else record.seeds:
            about = {"dataset": record.dataset, "experiment": record.experiment, "seed": str(seed)}
            about |= {"settings": " ".join((*record.settings, *settings)), "device": describe_device()}
            if is_measured(ROWS, about):
                continue
            append(ROWS, row(record, seed, settings, train(name, record, seed, settings)))
            TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
