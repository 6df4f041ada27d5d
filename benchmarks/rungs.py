"""The rule of experiment=best on images that it was not fitted to, against each network by hand.

python benchmarks/rungs.py          about half an hour on two cores; the data sets are looked for in FASTCONV_DATA

The digits; CIFAR-10 at half its images; five classes of CIFAR-10. By hand, the network is set and the rest is chosen as
ever. Appends to benchmarks/results/rungs.csv and makes rungs.md of all rows.
"""

import dataclasses
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

from measurements import RESULTS, append, describe_device, describe_versions, read
from omegaconf import OmegaConf
from rich.console import Console

from fastconv import best, run, training
from fastconv.clock import Clock
from fastconv.command import compose
from fastconv.data.images import ImageData
from fastconv.data.sources import load
from fastconv.ladder import RUNGS
from fastconv.results import git_commit
from fastconv.run_folder import RunFolder

ROWS, TABLE = RESULTS / "rungs.csv", RESULTS / "rungs.md"
# What to train on, and for how many seconds.
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


def train(case: str, network: str) -> dict[str, object]:
    """Train with a network, or with the one of the rule's choice."""
    settings, budget = CASES[case]
    settings = [*settings, "experiment=best", f"budget.seconds={budget}", "figures=false", "checkpoint.save=false"]
    settings += [f"model.widths={rung.network.widths}".replace(" ", "") for rung in RUNGS if name(rung) == network]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(run, "load", five_classes if case.startswith("5") else load),
    ):
        given, clock = [*settings, f"stream.root={folder}/streams"], Clock()
        choice = best.choose(OmegaConf.to_object(compose("config", given)), given, clock)
        planned = run.plan_run(choice.config, clock, choice.probe)
        with run.stream_in_use(planned):
            run.precompute(planned, Console(quiet=True))
            found = training.fit(planned, Console(quiet=True), RunFolder(Path(folder), choice.config, False), given)
    return {
        "case": case,
        "budget": budget,
        "network": network,
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


def name(rung) -> str:
    return "-".join(map(str, rung.network.widths))


def table() -> str:
    cases = defaultdict(dict)
    for row in read(ROWS):
        cases[row["case"], row["budget"], row["device"], row["precision"]][row["network"]] = row
    lines = ["# The rule on other images", "", "| images | budget | best % | network | by hand % | the best by hand is"
             " better by | machine |", "|" + " --- |" * 7]  # fmt: skip
    for (case, budget, device, precision), rows in cases.items():
        hand = {network: 100 * float(row["accuracy_tta"]) for network, row in rows.items() if network != "best"}
        if not hand or "best" not in rows:
            continue
        ours, chosen = 100 * float(rows["best"]["accuracy_tta"]), rows["best"]["widths"]
        listed = ", ".join(f"{network}: {value:.2f}" for network, value in hand.items())
        lines.append(
            f"| {case} | {budget} s | {ours:.2f} | {chosen} | {listed} | {max(hand.values()) - ours:+.2f} |"
            f" {device}, {precision} |"
        )
    note = "Test images, with test-time augmentation as far as the budget allows; one seed. Versions: rungs.csv."
    return "\n".join([*lines, "", note]) + "\n"


def main() -> None:
    for case in CASES:
        for network in ("best", *map(name, RUNGS[:4])):
            about = {"case": case, "network": network, "device": describe_device()}
            if not any(about.items() <= row.items() for row in read(ROWS)):
                append(ROWS, row := train(case, network))
                print(*row.values(), flush=True)
                TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main()
