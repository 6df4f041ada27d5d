"""On a GPU: the step against a bare compiled loop, the speed record, and the accuracy of each recipe on each data set.

python benchmarks/gpu.py [step] [speedrun] [recipes] [article]     without names all of them, some ten minutes

The data sets are looked for in FASTCONV_DATA. Runs follow one another in one process, and those that have a row are
skipped. Needs the source tree, torch, torchvision and the pure-Python packages of requirements.lock; no installation.
"""

import sys
import tempfile
from pathlib import Path

import article as whole
import records
import torch
from bare_loop import measure_pairs, plan
from measurements import Table, append, describe_device, read
from records import RECORDS, ROWS, TABLE
from rich.console import Console

from fastconv.config.resume import RunFolder
from fastconv.training import fit as training

ROUNDS = 3
# Two CPU cores with bf16 fit 6.2 epochs of experiment=original into 1000 s (results/original.csv).
DAVIDNET_EPOCHS = 6


def compare(table: Table, overrides: list[str], pairs: int = 9, group: int = 20, warm_up: int = 20) -> None:
    """Measure and show both loops."""
    for number in range(ROUNDS):
        if table.lacks(number, "fastconv", "bare loop"):
            for contender, value in measure_pairs(overrides, pairs, group, warm_up).items():
                table.add(number, contender, value)
    table.show(note="Both loops are compiled, and timed in turn within one process.")


def step() -> None:
    """The compiled step against the bare compiled loop."""
    compare(Table("gpu", "DavidNet on CIFAR-10, batches of 512", "images/s", ours="fastconv"), ["dataset=cifar10"])


def record(name: str, seeds: range, *settings: str) -> None:
    """Add rows to the records, from runs in this process."""
    about = RECORDS[name]
    for seed in seeds:
        row_key = {"dataset": about.dataset, "experiment": about.experiment, "seed": str(seed)}
        row_key |= {"settings": " ".join((*about.settings, *settings)), "device": describe_device()}
        if any(row_key.items() <= each.items() for each in read(ROWS)):
            continue
        torch._dynamo.reset()
        chosen = [f"dataset={about.dataset}", f"experiment={about.experiment}", f"seed={seed}", *about.settings]
        chosen += [*settings, "figures=false", "checkpoint.save=false", "validate.on=none"]
        run = plan(*chosen)
        with tempfile.TemporaryDirectory() as folder:
            found = training.fit(run, Console(quiet=True), RunFolder(Path(folder), run.config, resumed=False), chosen)
        append(ROWS, row := records.row(about, seed, settings, found))
        TABLE.write_text(records.table())
        print(name, *(f"{key}={value}" for key, value in row.items() if key not in ("versions", "device")), flush=True)


def speedrun() -> None:
    """Ten seeds of the speed record, whose batches a GPU takes whole."""
    record("cifar10-speedrun", range(10), "micro_batch_size=2000", "trainer.compile=true")


def recipes() -> None:
    """Each recipe without a time limit, not compiled: compiling takes longer than these runs."""
    for name in ("fashion_mnist-speedrun", "mnist-speedrun"):
        record(name, range(3), "trainer.compile=false")
    for name in ("cifar10-davidnet_fast", "cifar10-original"):
        record(name, range(3), f"schedule.max_epochs={DAVIDNET_EPOCHS}", "trainer.compile=false")
    record("cifar10-speedrun", range(5), "trainer.compile=false")


def article() -> None:
    """The article's 25 epochs on its three data sets with and without augmentation, seed 0, and their heatmaps."""
    whole.main("seeds=0", "epochs=25", "trainer.compile=false")


PARTS = {part.__name__: part for part in (step, speedrun, recipes, article)}


def main(*names: str) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; benchmarks/step.py measures the CPU")
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(*sys.argv[1:])
