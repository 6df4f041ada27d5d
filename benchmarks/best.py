"""Accuracy against budget: experiment=best and experiment=original in the same seconds.

python benchmarks/best.py [cifar10] [fashion_mnist] [budgets=30,100,300] [seeds=0,1,2] [experiments=best,original]

Appends a row for each finished run to benchmarks/results/best.csv and makes best.md and best.png of all rows; runs that
have a row of this machine are skipped. Whole, it takes three hours. `best before <commit>` in a row is what the rule
chose until then, `best at <commit>` what it chose at that one only.

`best` counts everything: the choice, which each run makes anew, and the scoring of all views. `original`, the article's
settings, counts training alone and is scored without test-time augmentation, which the article does not have.
"""

import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from measurements import RESULTS, append, describe_device, forget_benchmarks, is_measured, network_of, read, table_head
from records import Record, row, score

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.hardware import prepare
from fastconv.config.schema import Trainer
from fastconv.runs.results import Results

ROWS, TABLE, FIGURE = (RESULTS / f"best.{kind}" for kind in ("csv", "md", "png"))
SETTINGS = {"best": (), "original": ("tta.flip=false", "tta.shift=0", "validate.on=none")}


def run(dataset: str, experiment: str, budget: str, seed: int) -> Results:
    with tempfile.TemporaryDirectory() as outputs:
        forget_benchmarks()
        command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", f"experiment={experiment}"]
        command += [f"seed={seed}", f"budget.seconds={budget}", "figures=false", *SETTINGS[experiment]]
        subprocess.run([*command, f"outputs={outputs}", f"stream.root={outputs}/streams"], check=True)
        return Results.read(next(Path(outputs, dataset).iterdir()))


def groups() -> dict[tuple[str, float, str, str], list[dict[str, str]]]:
    """Rows by data set, budget, machine with its precision, and experiment."""
    found = defaultdict(list)
    for each in read(ROWS):
        machine = f"{each['device']}, {each['precision']}"
        found[each["dataset"], float(each["budget"]), machine, each["experiment"]].append(each)
    return dict(sorted(found.items()))


def table() -> str:
    found = groups()
    header = ["data set", "budget", "best %", "its network", "seconds for the choice", "counted in all", "original %",
              "machine"]  # fmt: skip
    lines = ["# Accuracy against budget", "", *table_head(header)]
    for (dataset, budget, device, experiment), rows in found.items():
        if experiment == "original":
            continue
        original = found.get((dataset, budget, device, "original"), []) if experiment == "best" else []
        choice = summarise(float(each["benchmark_seconds"]) for each in rows).mean
        counted = max(float(each["counted"]) for each in rows)
        networks = ", ".join(sorted({each["network"] for each in rows}))
        before = experiment.removeprefix("best")
        cells = [dataset, f"{budget:g} s{before}", score(rows), networks, f"{choice:.1f}", f"at most {counted:.1f}"]
        cells += [score(original) if original else "", device]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Test images, with test-time augmentation as far as the budget allows; mean ± standard deviation and each run"
        " (seeds: best.csv). `best` counts the choice, precompute, training and scoring; `original` training alone."
    )
    return "\n".join([*lines, "", note]) + "\n"


def draw() -> None:
    from matplotlib.figure import Figure

    found = {key: rows for key, rows in groups().items() if key[-1] in SETTINGS}
    budgets = {(dataset, budget) for dataset, budget, *_ in found}
    datasets = sorted({dataset for dataset, _ in budgets if sum(dataset == name for name, _ in budgets) > 1})
    figure = Figure(figsize=(4.2 * len(datasets), 4.2), layout="constrained")
    devices = sorted({device for name, _, device, experiment in found if experiment == "best" and name in datasets})
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        here = {(device, experiment) for name, _, device, experiment in found if name == dataset}
        lines = sorted(line for line in here if (line[0], "best") in here)
        for device, experiment in lines:
            rows = [
                (budget, [100 * float(each["accuracy_tta"]) for each in group])
                for (name, budget, *own), group in found.items()
                if (name, own) == (dataset, [device, experiment])
            ]
            color, style = f"C{devices.index(device)}", "-" if experiment == "best" else ":"
            means, label = [summarise(values).mean for _, values in rows], f"{experiment}, {device}"
            axes.plot([budget for budget, _ in rows], means, style, color=color, marker="o", label=label)
            for budget, values in rows:
                axes.plot([budget] * len(values), values, ".", color=color, alpha=0.5)
        axes.set(xscale="log", xlabel="budget in seconds", ylabel="test accuracy in %", title=dataset)
        ticks = sorted({budget for name, budget, *_ in found if name == dataset})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(FIGURE, dpi=130)


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments if "=" in each)
    datasets = [each for each in arguments if "=" not in each] or ["cifar10", "fashion_mnist"]
    for budget in options.get("budgets", "30,100,300").split(","):
        for seed in map(int, options.get("seeds", "0,1,2").split(",")):
            for dataset in datasets:
                for experiment in options.get("experiments", "best,original").split(","):
                    about = {"dataset": dataset, "experiment": experiment, "budget": budget, "seed": str(seed)}
                    about |= {"device": describe_device(), "precision": prepare(Trainer()).precision}
                    if is_measured(ROWS, about):
                        continue
                    results = run(dataset, experiment, budget, seed)
                    more = {
                        "budget": budget,
                        "counted": round(results.seconds_counted, 2),
                        "benchmark_seconds": round(results.seconds["benchmark"], 2),
                        "network": network_of(results),
                        "batch": results.batch_size,
                    }
                    append(ROWS, {**more, **row(Record(dataset, experiment, range(0)), seed, (), results)})
                    TABLE.write_text(table())
                    draw()
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
