"""Compares experiment=best with each network set by hand, on images that its rule was not fitted to.

PYTHONPATH=benchmarks python benchmarks/research/model_sizes.py [digits] [seeds=0] [networks=best,16-64-64]

The digits; CIFAR-10 at half its images; five classes of CIFAR-10, unless some are named: a quarter of an hour on two
cores for each seed. By hand, the network is set and its speed cached, and experiment=best chooses everything else; the
rule itself benchmarks and chooses anew in each run. Appends to benchmarks/results/model_sizes.csv and makes
model_sizes.md of all rows.
"""

import dataclasses
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

from measurements import RESULTS, append, describe_device, describe_versions, forget_benchmarks, read
from omegaconf import OmegaConf
from rich.console import Console

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.autotune.choose import autotune
from fastconv.budget.autotune.scaling_law import MODEL_SIZES
from fastconv.budget.clock import Clock
from fastconv.budget.hardware import prepare
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.config.resume import RunFolder
from fastconv.config.schema import Trainer
from fastconv.data import loading
from fastconv.data.dataset import ImageData
from fastconv.data.loading import load
from fastconv.runs.results import git_commit
from fastconv.training import fit as training
from fastconv.training import plan as run

ROWS, TABLE = RESULTS / "model_sizes.csv", RESULTS / "model_sizes.md"
# Images, and seconds of the budget.
CASES = {
    "digits": (["dataset=digits"], 20),
    "half of cifar10": (["dataset=cifar10", "dataset.holdout=0.5"], 60),
    "5 classes of cifar10": (["dataset=cifar10"], 60),
}


def five_classes(name: str, root: Path) -> tuple[ImageData, ImageData]:
    """The first five classes of a data set."""
    return tuple(
        dataclasses.replace(split.take((split.labels < 5).nonzero()[0]), classes=split.classes[:5])
        for split in load(name, root)
    )


def train(case: str, network: str, seed: int) -> dict[str, object]:
    """Train with a network, or with the one of the rule's choice."""
    settings, budget = CASES[case]
    settings = [*settings, f"seed={seed}"]
    if network == "best":
        forget_benchmarks()
    settings = [*settings, "experiment=best", f"budget.seconds={budget}", "figures=false", "checkpoint.save=false"]
    settings += [
        f"model.widths={size.network.widths}".replace(" ", "") for size in MODEL_SIZES if name(size) == network
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loading, "load", five_classes if case.startswith("5") else load),
    ):
        given, clock = [*settings, f"stream.root={folder}/streams"], Clock()
        config = OmegaConf.to_object(compose("train", given))
        data = check_data(config, config.autotune)
        choice = autotune(config, data, given, clock)
        planned = run.plan_run(choice.config, data, clock, choice.speed)
        with run.stream_in_use(planned):
            run.precompute(planned, Console(quiet=True))
            found = training.fit(planned, Console(quiet=True), RunFolder(Path(folder), choice.config, False), given)
    return {
        "case": case,
        "budget": budget,
        "network": network,
        "seed": seed,
        "widths": "-".join(map(str, choice.config.model.widths)),
        "accuracy": round(found.accuracy, 5),
        "accuracy_tta": round(found.accuracy_tta, 5),
        "epochs": round(found.epochs, 2),
        "counted": round(found.seconds_counted, 1),
        "device": describe_device(),
        "precision": found.precision,
        "versions": describe_versions(),
        "git_commit": git_commit(),
    }


def name(size) -> str:
    return "-".join(map(str, size.network.widths))


def table() -> str:
    cases = defaultdict(lambda: defaultdict(list))
    for row in read(ROWS):
        cases[row["case"], row["budget"], row["device"], row["precision"]][row["network"]].append(row)
    lines = ["# experiment=best on images that its rule was not fitted to", "",
             "| images | budget | best % | network | by hand % | the best by hand is"
             " better by | machine |", "|" + " --- |" * 7]  # fmt: skip
    for (case, budget, device, precision), by_network in cases.items():
        found = {
            network: {row["seed"]: 100 * float(row["accuracy_tta"]) for row in rows}
            for network, rows in by_network.items()
        }
        ours = found.pop("best", None)
        hand = [summarise(values.values()).mean for values in found.values() if ours and values.keys() == ours.keys()]
        if not hand:
            continue
        chosen = ", ".join(dict.fromkeys(row["widths"] for row in by_network["best"]))
        listed = "; ".join(f"{network}: {score(values)}" for network, values in found.items())
        more = max(hand) - summarise(ours.values()).mean
        lines.append(
            f"| {case} | {budget} s | {score(ours)} | {chosen} | {listed} | {more:+.2f} | {device}, {precision} |"
        )
    note = (
        "Test images, with test-time augmentation as far as the budget allows; the mean, and each seed from 0 on."
        " Networks by hand that were not trained with all seeds do not count in the difference. Versions:"
        " model_sizes.csv."
    )
    return "\n".join([*lines, "", note]) + "\n"


def score(by_seed: dict[str, float]) -> str:
    every = [f"{value:.2f}" for value in by_seed.values()]
    return every[0] if len(every) == 1 else f"{summarise(by_seed.values()).mean:.2f} ({', '.join(every)})"


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments if "=" in each)
    networks = options.get("networks", ",".join(["best", *map(name, MODEL_SIZES[:4])])).split(",")
    for seed in map(int, options.get("seeds", "0").split(",")):
        for case in [each for each in arguments if "=" not in each] or CASES:
            for network in networks:
                about = {"case": case, "network": network, "seed": str(seed), "device": describe_device()}
                about["precision"] = prepare(Trainer()).precision
                if not any(about.items() <= row.items() for row in read(ROWS)):
                    append(ROWS, row := train(case, network, seed))
                    print(*row.values(), flush=True)
                    TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
