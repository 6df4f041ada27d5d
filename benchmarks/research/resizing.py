"""Compares training on small images first, and whole ones then, with whole ones from the start: progressive resizing.

PYTHONPATH=benchmarks python benchmarks/research/resizing.py [cifar10] [fashion_mnist] [seeds=0,1,2]

Each pair takes about the same time: a step with small images takes 0.56 times as long, so that a training whose first
half of the images is small sees 1.28 times as many. Trains on all but 10,000 training images, and scores these in views
along the diagonal. Appends to benchmarks/results/resizing.csv, with the seconds that training took on this machine, and
makes resizing.md of it; runs that have a row are skipped. Half an hour for each seed on two AVX2 cores.
"""

import sys
from collections import defaultdict

from measurements import RESULTS, append, is_measured, read, table_head
from strides import measure

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.hardware import keep_freed_memory
from fastconv.kernels.winograd import obstacle, use_winograd
from fastconv.models.resizing import SIDE_SHARE

ROWS, TABLE = RESULTS / "resizing.csv", RESULTS / "resizing.md"
# Data set, network, images that are seen whole.
CASES = (
    ("cifar10", "16-64-64", 30_000),
    ("cifar10", "32-128-128", 30_000),
    ("cifar10", "32-128-128", 100_000),
    ("fashion_mnist", "16-64-64", 30_000),
    ("fashion_mnist", "32-128-128", 80_000),
    ("cifar10", "32-128-128", 220_000),
)
# Share of the images that are small; how many times as many images are then seen in the same time.
SHARES = {"0": 1.0, "0.5": 1 / (1 - 0.5 * (1 - SIDE_SHARE**2))}


def table() -> str:
    cases = defaultdict(lambda: defaultdict(list))
    for row in read(ROWS):
        cases[row["dataset"], row["network"], row["images"], row["device"]][row["small"]].append(row)
    columns = ("data set", "network", "whole images", "% without", "s", "% with half of the images small", "s", "gain")
    lines = ["# Progressive resizing", "", *table_head([*columns, "machine"])]
    for (dataset, network, images, device), shares in cases.items():
        if shares.keys() != SHARES.keys():
            continue
        cells, means = [dataset, network, f"{int(images):,}"], []
        for share in SHARES:
            values = [100 * float(row["accuracy_holdout_tta"]) for row in shares[share]]
            means.append(summarise(values).mean)
            seconds = summarise([float(row["seconds"]) for row in shares[share]]).mean
            cells += [f"{means[-1]:.2f} ({', '.join(f'{value:.2f}' for value in values)})", f"{seconds:.0f}"]
        lines.append(f"| {' | '.join([*cells, f'{means[1] - means[0]:+.2f}', device])} |")
    note = "fp32. Mean, and each seed from 0 on, on 10,000 held-out training images. Seconds of the training steps."
    return "\n".join([*lines, "", note]) + "\n"


def main(*arguments: str) -> None:
    keep_freed_memory()
    if obstacle() is None:
        use_winograd(True)
    options = dict(each.split("=") for each in arguments if "=" in each)
    datasets = [each for each in arguments if "=" not in each] or {dataset for dataset, *_ in CASES}
    for seed in options.get("seeds", "0").split(","):
        for dataset, network, images in CASES:
            for small, more in SHARES.items():
                about = {"dataset": dataset, "network": network, "images": str(images), "small": small, "seed": seed}
                if dataset in datasets and not is_measured(ROWS, about):
                    settings = {"widths": [int(width) for width in network.split("-")]}
                    row = measure(dataset, settings, round(more * images), int(seed), float(small))
                    append(ROWS, {**about, **row})
                    TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
