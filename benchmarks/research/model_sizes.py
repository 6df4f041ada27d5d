"""Compares experiment=best with each network set by hand, on other images than the whole data sets of its rule.

PYTHONPATH=benchmarks python benchmarks/research/model_sizes.py [digits] [seeds=0] [networks=best,16-64-64]

The digits; CIFAR-10 at half its images, with five of its classes, with 100 classes (each one's images in ten clusters),
enlarged to 64x64 pixels, and with 500 images; Fashion-MNIST with 1 % of its shirts, for balanced accuracy; unless some
are named: half an hour on two cores for each seed. By hand, the network is set and its speed cached, and
experiment=best chooses everything else; the rule itself benchmarks and chooses anew in each run. Appends to
benchmarks/results/model_sizes.csv and makes model_sizes.md of all rows.
"""

import dataclasses
import functools
import hashlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from clustered import DATA, clustered
from measurements import RESULTS, append, describe_device, describe_versions, forget_benchmarks, is_measured, read
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.autotune.choose import autotune
from fastconv.budget.autotune.speed import network_name
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
from fastconv.training.plan import plan_run
from fastconv.training.run_stream import precompute, stream_in_use

ROWS, TABLE = RESULTS / "model_sizes.csv", RESULTS / "model_sizes.md"
CIFAR10 = ["dataset=cifar10"]
BY_HAND = ("16-64-64 stride 2", "32-128-128 stride 2", "16-64-64", "32-128-128")


def five_classes(split: ImageData) -> ImageData:
    """The images of the first five classes."""
    return dataclasses.replace(split.take((split.labels < 5).nonzero()[0]), classes=split.classes[:5])


def hundred_classes(split: ImageData) -> ImageData:
    """Each class of CIFAR-10 as ten classes of images that look alike."""
    labels = clustered("cifar10", 10, split.images, split.labels)
    classes = tuple(f"{name} {number}" for name in split.classes for number in range(10))
    return dataclasses.replace(split, labels=labels, classes=classes, digest=digest_of(split, "100 classes"))


def enlarged(split: ImageData) -> ImageData:
    """The images at 64x64 pixels."""
    images = np.stack([np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BILINEAR))
                       for each in split.images])  # fmt: skip
    return dataclasses.replace(split, images=images, digest=digest_of(split, "64x64"))


def few(split: ImageData) -> ImageData:
    """50 training images of each class; all test images."""
    if len(split) < 50_000:
        return split
    rows = np.concatenate([(split.labels == label).nonzero()[0][:50] for label in range(10)])
    return split.take(np.sort(rows))


def few_shirts(split: ImageData) -> ImageData:
    """1 % of the training images of shirts; all test images, as many of each class: accuracy is balanced there."""
    if len(split) < 60_000:
        return split
    shirts = (split.labels == split.classes.index("Shirt")).nonzero()[0]
    rows = np.setdiff1d(np.arange(len(split)), shirts[len(shirts) // 100 :])
    return split.take(rows)


def digest_of(split: ImageData, change: str) -> str:
    return hashlib.sha256(f"{split.digest} {change}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Case:
    """Images, and seconds of the budget."""

    settings: list[str]
    seconds: int
    change: Callable[[ImageData], ImageData] = lambda split: split


CASES = {
    "digits": Case(["dataset=digits"], 20),
    "half of cifar10": Case([*CIFAR10, "dataset.holdout=0.5"], 60),
    "5 classes of cifar10": Case(CIFAR10, 60, five_classes),
    "100 classes of cifar10": Case(CIFAR10, 60, hundred_classes),
    "cifar10 at 64x64": Case(CIFAR10, 60, enlarged),
    "500 images of cifar10": Case(CIFAR10, 30, few),
    "1 % of shirts": Case(["dataset=fashion_mnist", "objective=balanced_accuracy"], 30, few_shirts),
}


@functools.cache
def images_of(case: str) -> tuple[ImageData, ImageData]:
    """Training and test images."""
    name = CASES[case].settings[0].removeprefix("dataset=")
    return tuple(CASES[case].change(split) for split in load(name, DATA))


def train(case: str, network: str, seed: int) -> dict[str, object]:
    """Train with a network, or with the one of the rule's choice."""
    budget = CASES[case].seconds
    settings = [*CASES[case].settings, f"seed={seed}"]
    settings += ["experiment=best", f"budget.seconds={budget}", "figures=false", "checkpoint.save=false"]
    if network == "best":
        forget_benchmarks()
    else:
        widths, _, stride = network.partition(" stride ")
        settings.append(f"model.widths=[{widths.replace('-', ',')}]")
        settings.append(f"model.whitening_stride={2 * int(stride or 1) if '64x64' in case else stride or 1}")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loading, "load", return_value=images_of(case)),
    ):
        given, clock = [*settings, f"stream.root={folder}/streams"], Clock()
        config = OmegaConf.to_object(compose("train", given))
        data = check_data(config, config.autotune)
        choice = autotune(config, data, given, clock)
        planned = plan_run(choice.config, data, clock, choice.speed)
        with stream_in_use(planned):
            planned = precompute(planned, Console(quiet=True))
            found = training.fit(planned, Console(quiet=True), RunFolder(Path(folder), choice.config, False), given)
    return {
        "case": case,
        "budget": budget,
        "network": network,
        "seed": seed,
        "widths": network_name(choice.config.model).removeprefix("airbench-"),
        "accuracy": round(found.accuracy, 5),
        "accuracy_tta": round(found.accuracy_tta, 5),
        "epochs": round(found.epochs, 2),
        "counted": round(found.seconds_counted, 1),
        "device": describe_device(),
        "precision": found.precision,
        "versions": describe_versions(),
        "git_commit": git_commit(),
    }


def table() -> str:
    cases = defaultdict(lambda: defaultdict(list))
    for row in read(ROWS):
        cases[row["case"], row["budget"], row["device"], row["precision"]][row["network"]].append(row)
    lines = ["# experiment=best on other images than the data sets of its rule", "",
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
    networks = options.get("networks", ",".join(["best", *BY_HAND])).split(",")
    for seed in map(int, options.get("seeds", "0").split(",")):
        for case in [each for each in arguments if "=" not in each] or CASES:
            for network in networks:
                about = {"case": case, "network": network, "seed": str(seed), "device": describe_device()}
                about["precision"] = prepare(Trainer()).precision
                if not is_measured(ROWS, about):
                    append(ROWS, row := train(case, network, seed))
                    print(*row.values(), flush=True)
                    TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
