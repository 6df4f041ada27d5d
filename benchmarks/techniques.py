"""The effect of each technique of the fast recipes: left out of all of them, and added to none.

python benchmarks/techniques.py [seeds=0,1,2] [seconds=100] [width=16]      an hour on two cores

DavidNet on CIFAR-10, by held-out training images. A run has one core, and as many go at once as there are. Appends a
row for each finished run to benchmarks/results/techniques.csv and makes techniques.md and techniques.png of the rows of
this machine, seconds and width; runs that have one are skipped. Two seeds are the least that the table can be made of.
"""

import math
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measurements import RESULTS, Table, append, describe_device, describe_versions, is_measured, read
from omegaconf import OmegaConf
from scipy.special import stdtrit

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.benchmark import BenchmarkKey, benchmark
from fastconv.budget.hardware import prepare
from fastconv.config.overrides import compose
from fastconv.models.configs import model_settings
from fastconv.runs.results import Results

ROWS, TABLE, FIGURE = (RESULTS / f"techniques.{kind}" for kind in ("csv", "md", "png"))
# With it, and without.
TECHNIQUES = {
    "whitening": ("model.whitening=true", "model.whitening=false"),
    "Dirac": ("model.dirac=true", "model.dirac=false"),
    "pool before norm": ("model.pool_before_norm=true", "model.pool_before_norm=false"),
    "CELU": ("model.activation=celu", "model.activation=relu"),
    "frozen norm scales": ("model.freeze_norm_scale=true", "model.freeze_norm_scale=false"),
    "biases learn 64 times as fast": ("optimizer.bias_lr_scale=64", "optimizer.bias_lr_scale=1"),
    "label smoothing": ("label_smoothing=0.2", "label_smoothing=0"),
    "light augmentation": ("augment=airbench", "augment=standard"),
    "averaged weights": ("average=lookahead", "average=none"),
}
# Those with which a training step does something else, and rounds in which it is timed.
OTHER_STEP, ROUNDS = ("whitening", "pool before norm", "CELU", "frozen norm scales"), 7
STEPS = Table("techniques_step", "The training step with and without each technique, one core", "images/s")
# Of each run, with it and without.
VIEWS, PLAIN = "accuracy_holdout_tta", "accuracy_holdout"
# The peak learning rates of davidnet_fast and of experiment=original.
WITH_ALL, WITH_NONE = "optimizer.max_lr=1.0", "optimizer.max_lr=0.4"


Rows = list[dict[str, str]]


class Gain(NamedTuple):
    """Points of accuracy, and half of their 95 % interval."""

    mean: float
    half: float


def variants() -> dict[str, list[str]]:
    """Settings by name: all techniques, none, and each left out or alone."""
    on, off = ({name: pair[at] for name, pair in TECHNIQUES.items()} for at in (0, 1))
    found = {"all": [*on.values(), WITH_ALL], "none": [*off.values(), WITH_NONE]}
    for name in TECHNIQUES:
        found[f"all but {name}"] = [*({**on, name: off[name]}).values(), WITH_ALL]
        found[f"{name} alone"] = [*({**off, name: on[name]}).values(), WITH_NONE]
    return found


def run(settings: list[str], seed: int, seconds: str, width: str) -> Results:
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "fastconv.train", "dataset=cifar10", "model=davidnet", *settings]
        command += [f"seed={seed}", f"budget.seconds={seconds}", f"model.width={width}", "dataset.holdout=0.1"]
        command += ["validate.on=holdout", "validate.every=1000", "checkpoint.save=false", "figures=false"]
        command += ["tta.shift=0", "trainer.num_threads=1", f"outputs={outputs}", f"stream.root={outputs}/streams"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return Results.read(next(Path(outputs, "cifar10").iterdir()))


def fit(kind: str, every: Rows) -> tuple[dict[str, Gain], Gain]:
    """The gain of each technique at equal epochs, by name, and that of twice as many epochs.

    By least squares: the accuracy of a run is its variant's, plus a constant times the binary logarithm of
    its epochs; the runs of the same variant, which differ in epochs, determine the constant.

    Args:
        every: the rows of one machine, number of seconds, and width.
    """
    base, sign = {"alone": ("none", 1), "left out": ("all", -1)}[kind]
    named = {f"{name} alone" if kind == "alone" else f"all but {name}": name for name in TECHNIQUES}
    rows = [row for row in every if row["variant"] in (base, *named)]
    variants = sorted({row["variant"] for row in rows} - {base})
    is_variant = [[row["variant"] == variant for row in rows] for variant in variants]
    doublings = [math.log2(float(row["epochs"])) for row in rows]
    design = np.column_stack([np.ones(len(rows)), doublings, *is_variant]).astype(float)
    accuracy = np.array([100 * float(row[PLAIN]) for row in rows])
    freedom = len(rows) - design.shape[1]
    found = np.linalg.lstsq(design, accuracy)[0]
    variance = np.sum((accuracy - design @ found) ** 2) / freedom
    halves = stdtrit(freedom, 0.975) * np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    each = {named[name]: Gain(sign * found[at], halves[at]) for at, name in enumerate(variants, start=2)}
    return each, Gain(found[1], halves[1])


def effects(rows: Rows) -> list[tuple[str, str, str, Gain]]:
    """(technique, kind, variant, gain), by the rows of one machine, number of seconds, and width."""
    alone, left_out = fit("alone", rows)[0], fit("left out", rows)[0]
    found = []
    for name in TECHNIQUES:
        found.append((name, "left out", f"all but {name}", left_out[name]))
        found.append((name, "alone", f"{name} alone", alone[name]))
    for kind, base in (("left out", "all"), ("alone", "none")):
        pairs = summarise(100 * (float(row[VIEWS]) - float(row[PLAIN])) for row in rows if row["variant"] == base)
        found.append(("test-time augmentation", kind, base, Gain(pairs.mean, pairs.half)))
    return found


def time_steps(width: str) -> None:
    """Time the training step on one core, of all variants that have a step of their own in turn."""
    for number in range(ROUNDS):
        for variant, settings in variants().items():
            if variant not in ("all", "none") and not any(name in variant for name in OTHER_STEP):
                continue
            if not STEPS.lacks(number, variant):
                continue
            settings = [*settings, "dataset=cifar10", "model=davidnet", f"model.width={width}", "trainer.num_threads=1"]
            config = OmegaConf.to_object(compose("train", settings))
            sizes = (32, 32, 3), 10, config.batch_size, config.micro_batch_size
            key = BenchmarkKey("davidnet", model_settings(config.model), *sizes, True, config.optimizer.name)
            with tempfile.TemporaryDirectory() as cache:
                seconds = benchmark(key, prepare(config.trainer), Path(cache)).step_seconds
            STEPS.add(number, variant, config.batch_size / seconds)
    STEPS.show()


def measured(about: dict[str, str]) -> Rows:
    """The rows of a machine, a number of seconds, and a width."""
    return [row for row in read(ROWS) if about.items() <= row.items()]


def table(rows: Rows, seconds: str, width: str) -> str:
    lines = [
        "# What each technique is worth",
        "",
        "| technique | | accuracy % | epochs | it brings at equal epochs | for a step's time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for base in ("all", "none"):
        lines.append(f"| {base} of them | | {_scored(base, rows)} | | |")
    for name, kind, variant, gain in effects(rows):
        takes = ""
        if name in OTHER_STEP:
            ratio = STEPS.ratio("none", variant) if kind == "alone" else STEPS.ratio(variant, "all")
            takes = f"{100 / ratio - 100:+.0f} %"
        lines.append(f"| {name} | {kind} | {_scored(variant, rows)} | {gain.mean:+.2f} ± {gain.half:.2f} | {takes} |")
    doubled = (f"{gain.mean:.1f} ± {gain.half:.1f}" for _, gain in (fit(kind, rows) for kind in ("left out", "alone")))
    note = (
        f"DavidNet of {width} filters, {seconds} s on one core of {describe_device()}, CIFAR-10's held-out tenth; mean"
        " ± standard deviation of three seeds, and the epochs that fitted, the mean. Their number follows the machine's"
        " speed more than the technique's cost. So what a technique brings is taken at equal epochs, by least squares"
        " with the 95 % interval; left out, it is what is lost without it. By the same fit twice the epochs bring"
        " {} points to all and all but one, and {} to none and one alone. Test-time augmentation: the mirror image,"
        " on the same networks. A step's time: by what more the technique makes it, medians over"
        f" {ROUNDS} rounds of all in turn (techniques_step.md); the others leave the step as it is."
    ).format(*doubled)
    return "\n".join([*lines, "", note]) + "\n"


def _scored(variant: str, every: Rows) -> str:
    """Accuracy and epochs of a variant's runs."""
    rows = [row for row in every if row["variant"] == variant]
    found = summarise(100 * float(row[PLAIN]) for row in rows)
    return f"{found.mean:.2f} ± {found.sd:.2f} | {summarise(float(row['epochs']) for row in rows).mean:.2f}"


def draw(rows: Rows) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = effects(rows)
    places = {name: at for at, name in enumerate(reversed(dict.fromkeys(name for name, *_ in shown)))}
    for name, kind, _, gain in shown:
        up, color = (0.15, "C0") if kind == "alone" else (-0.15, "C1")
        axes.errorbar(gain.mean, places[name] + up, xerr=gain.half, fmt="o", color=color)
    for kind, color in (("added to none", "C0"), ("lost when left out of all", "C1")):
        axes.plot([], [], "o", color=color, label=kind)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(list(places.values()), list(places))
    axes.set(xlabel="points of held-out accuracy at equal epochs, with the 95 % interval")
    figure.legend(loc="outside upper center", ncols=2)  # the rows fill the axes
    figure.savefig(FIGURE, dpi=130)


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments)
    seconds, width = options.get("seconds", "100"), options.get("width", "16")
    waiting, machine = {}, {"seconds": seconds, "width": width, "device": describe_device()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for seed in options.get("seeds", "0,1,2").split(","):
            for variant, settings in variants().items():
                about = {"variant": variant, "seed": seed, **machine}
                if not is_measured(ROWS, about):
                    waiting[pool.submit(run, settings, int(seed), seconds, width)] = about
        for done in as_completed(waiting):
            found = done.result()
            row = {key: round(getattr(found, key), 5) for key in (PLAIN, VIEWS)} | {"epochs": round(found.epochs, 3)}
            more = {"precision": found.precision, "versions": describe_versions(), "git_commit": found.git_commit}
            append(ROWS, {**waiting[done], **row, **more})
    time_steps(width)
    rows = measured(machine)
    TABLE.write_text(text := table(rows, seconds, width))
    draw(rows)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
