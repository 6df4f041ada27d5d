"""Compares the accuracy after training by Winograd's convolutions with that by direct ones, after equal steps.

PYTHONPATH=benchmarks python benchmarks/research/winograd_accuracy.py [precision=bf16] [network=16-64-64] [seeds=0,1]

Trains a network, by default 32-128-128, on 50,000 training images of Fashion-MNIST, each once, with equal batches for
both, and scores 10,000 held-out ones, in fp32 or in bf16. Appends to benchmarks/results/winograd_accuracy.csv and makes
winograd_accuracy.md of it; runs that have a row are skipped. About ten minutes on two AVX2 cores; the speed of the
machine does not matter.
"""

import sys

from measurements import RESULTS, append, is_measured, read, table_head
from strides import measure

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.hardware import dtype_of
from fastconv.kernels.winograd import obstacle, use_winograd
from fastconv.system.errors import InputError

ROWS, TABLE = RESULTS / "winograd_accuracy.csv", RESULTS / "winograd_accuracy.md"
IMAGES = 50_000
CONTENDERS = {"direct": False, "Winograd": True}


def table() -> str:
    rows = read(ROWS)
    lines = ["# Accuracy with Winograd's convolutions, after equal steps", ""]
    lines += table_head(("precision", "network", "convolutions", "mean", "each seed", "n"))
    for about in dict.fromkeys((row["precision"], row["network"]) for row in rows):
        found: dict[str, dict[int, float]] = {name: {} for name in CONTENDERS}
        for row in rows:
            if (row["precision"], row["network"]) == about:
                found[row["convolutions"]][int(row["seed"])] = 100 * float(row["accuracy_holdout_tta"])
        for name, own in found.items():
            if own:
                each = ", ".join(f"{own[seed]:.2f}" for seed in sorted(own))
                lines.append(
                    f"| {' | '.join(about)} | {name} | {summarise(own.values()).mean:.2f} | {each} | {len(own)} |"
                )
        if len(both := found["direct"].keys() & found["Winograd"].keys()) > 1:
            gains = summarise([found["Winograd"][seed] - found["direct"][seed] for seed in both])
            lines.append(f"| {' | '.join(about)} | difference | {gains.mean:+.2f} ± {gains.half:.2f} | | {len(both)} |")
    devices = ", ".join(sorted({row["device"] for row in rows}))
    note = (
        f"{devices}. After {IMAGES:,} images of Fashion-MNIST: % of 10,000 held-out images, in views"
        " along the diagonal; the difference with its 95 % interval."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments)
    precision, network = options.get("precision", "fp32"), options.get("network", "32-128-128")
    dtype = dtype_of(precision)
    if why := obstacle(dtype):
        raise InputError(f"there are no Winograd convolutions here: {why}")
    for seed in options.get("seeds", "0,1,2,3,4").split(","):
        for name, is_on in CONTENDERS.items():
            about = {"precision": precision, "network": network, "convolutions": name, "seed": seed}
            if not is_measured(ROWS, about):
                use_winograd(is_on, dtype)
                widths = {"widths": [int(width) for width in network.split("-")]}
                row = measure("fashion_mnist", widths, IMAGES, int(seed), precision=precision)
                append(ROWS, {**about, **{key: row[key] for key in row if key != "seconds"}})
                TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
