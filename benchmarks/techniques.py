"""What each technique of the fast recipes is worth: each left out of all, and each added to none.

python benchmarks/techniques.py [seeds=0,1,2] [seconds=100] [width=16]      an hour on two cores

DavidNet on CIFAR-10, by held-out training images. A run has one core, and as many go at once as there are. Appends a
row for each finished run to benchmarks/results/techniques.csv and makes techniques.md and techniques.png of all rows;
runs that have a row of this machine are skipped.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from measurements import RESULTS, append, describe_device, describe_versions, read

from fastconv.results import Results
from fastconv.summary import summarise

ROWS, TABLE, FIGURE = (RESULTS / f"techniques.{kind}" for kind in ("csv", "md", "png"))
# With it, and without.
TECHNIQUES = {
    "whitening": ("model.whitening=true", "model.whitening=false"),
    "Dirac": ("model.dirac=true", "model.dirac=false"),
    "pool before norm": ("model.pool_before_norm=true", "model.pool_before_norm=false"),
    "CELU": ("model.activation=celu", "model.activation=relu"),
    "frozen norm scales": ("model.freeze_norm_scale=true", "model.freeze_norm_scale=false"),
    "biases learn 64 times as fast": ("optimizer.bias_factor=64", "optimizer.bias_factor=1"),
    "label smoothing": ("label_smoothing=0.2", "label_smoothing=0"),
    "light augmentation": ("augment=airbench", "augment=standard"),
    "averaged weights": ("average=lookahead", "average=none"),
}
# Of each run, with it and without.
VIEWS, PLAIN = "accuracy_holdout_tta", "accuracy_holdout"
# The peak learning rates of davidnet_fast and of the article's recipe.
WITH_ALL, WITH_NONE = "optimizer.max_lr=1.0", "optimizer.max_lr=0.4"


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


def effects() -> list[tuple[str, str, list[float], list[float], float]]:
    """(technique, kind, accuracies in %, differences, mean epochs) over the seeds that both sides have."""
    accuracy: dict[tuple[str, str], dict[str, float]] = {}
    epochs: dict[str, list[float]] = {}
    for row in read(ROWS):
        epochs.setdefault(row["variant"], []).append(float(row["epochs"]))
        for scored in (PLAIN, VIEWS):
            accuracy.setdefault((row["variant"], scored), {})[row["seed"]] = 100 * float(row[scored])
    pairs = []
    for name in TECHNIQUES:
        pairs.append((name, "left out", (f"all but {name}", PLAIN), ("all", PLAIN), -1))
        pairs.append((name, "alone", (f"{name} alone", PLAIN), ("none", PLAIN), 1))
    pairs.append(("test-time augmentation", "left out", ("all", PLAIN), ("all", VIEWS), -1))
    pairs.append(("test-time augmentation", "alone", ("none", VIEWS), ("none", PLAIN), 1))
    found = []
    for name, kind, variant, base, sign in pairs:
        ours, theirs = accuracy.get(variant, {}), accuracy.get(base, {})
        both = sorted(ours.keys() & theirs.keys())
        if both:
            gains = [sign * (ours[seed] - theirs[seed]) for seed in both]
            found.append((name, kind, [ours[seed] for seed in both], gains, summarise(epochs[variant[0]]).mean))
    return found


def table(seconds: str, width: str) -> str:
    lines = [
        "# What each technique is worth",
        "",
        "| technique | | accuracy % | it brings | epochs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for base in ("all", "none"):
        rows = [row for row in read(ROWS) if row["variant"] == base]
        if rows:
            values, epochs = ([float(row[key]) for row in rows] for key in (PLAIN, "epochs"))
            score = _text([100 * value for value in values])
            lines.append(f"| {base} of them | | {score} | | {summarise(epochs).mean:.2f} |")
    for name, kind, values, gains, epochs in effects():
        found = summarise(gains)
        lines.append(f"| {name} | {kind} | {_text(values)} | {found.mean:+.2f} ± {found.half:.2f} | {epochs:.2f} |")
    note = (
        f"DavidNet of {width} filters, {seconds} s on one core of {describe_device()}, CIFAR-10's held-out tenth; mean"
        " ± standard deviation. What a technique brings: over pairs with equal seeds, with the 95 % interval; left out,"
        " what is lost without it. Test-time augmentation: the mirror image. Epochs: how many fitted, the mean; where"
        " they differ from those of the runs compared with, the machine's speed is in the difference too."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _text(values: list[float]) -> str:
    found = summarise(values)
    return f"{found.mean:.2f} ± {found.sd:.2f}" if len(values) > 1 else f"{found.mean:.2f}"


def draw() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = effects()
    places = {name: at for at, name in enumerate(reversed(dict.fromkeys(name for name, *_ in shown)))}
    for name, kind, _, gains, _ in shown:
        found, up = summarise(gains), 0.15 if kind == "alone" else -0.15
        colour = "C0" if kind == "alone" else "C1"
        axes.errorbar(found.mean, places[name] + up, xerr=found.half if len(gains) > 1 else None, fmt="o", color=colour)
    for kind, colour in (("added to none", "C0"), ("what leaving it out of all loses", "C1")):
        axes.plot([], [], "o", color=colour, label=kind)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(list(places.values()), list(places))
    axes.set(xlabel="points of held-out accuracy")
    axes.legend()
    figure.savefig(FIGURE, dpi=130)


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments)
    seconds, width = options.get("seconds", "100"), options.get("width", "16")
    waiting = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for seed in options.get("seeds", "0,1,2").split(","):
            for variant, settings in variants().items():
                about = {"variant": variant, "seed": seed, "seconds": seconds, "width": width}
                about["device"] = describe_device()
                if not any(about.items() <= row.items() for row in read(ROWS)):
                    waiting[pool.submit(run, settings, int(seed), seconds, width)] = about
        for done in as_completed(waiting):
            found = done.result()
            row = {key: round(getattr(found, key), 5) for key in (PLAIN, VIEWS)} | {"epochs": round(found.epochs, 3)}
            more = {"precision": found.precision, "versions": describe_versions(), "git_commit": found.git_commit}
            append(ROWS, {**waiting[done], **row, **more})
            TABLE.write_text(table(seconds, width))
            draw()
    print(table(seconds, width))


if __name__ == "__main__":
    main(*sys.argv[1:])
