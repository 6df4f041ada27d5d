"""Compares the accuracy after training by Winograd's convolutions with that by direct ones, after equal steps.

PYTHONPATH=benchmarks python benchmarks/research/winograd_accuracy.py [seeds=0,1,2,3,4]

Trains 32-128-128 on 50,000 training images of Fashion-MNIST, each once, with equal batches for both, and scores 10,000
held-out ones. Appends to benchmarks/results/winograd_accuracy.csv and makes winograd_accuracy.md of it; runs that have
a row are skipped. About ten minutes on two AVX2 cores; the speed of the machine does not matter.
"""

import sys

from measurements import RESULTS, append, read
from strides import measure

from fastconv.analysis.comparison.statistics import summarise
from fastconv.kernels.winograd import obstacle, use_winograd
from fastconv.system.errors import InputError

ROWS, TABLE = RESULTS / "winograd_accuracy.csv", RESULTS / "winograd_accuracy.md"
NETWORK, IMAGES = {"widths": [32, 128, 128]}, 50_000
CONTENDERS = {"direct": False, "Winograd": True}


def table() -> str:
    rows = read(ROWS)
    lines = ["# Accuracy with Winograd's convolutions, after equal steps", ""]
    lines += ["| convolutions | mean | each seed | n |", "|" + " --- |" * 4]
    found = {}
    for name in CONTENDERS:
        own = {
            int(row["seed"]): 100 * float(row["accuracy_holdout_tta"]) for row in rows if row["convolutions"] == name
        }
        if own:
            found[name] = own
            each = ", ".join(f"{own[seed]:.2f}" for seed in sorted(own))
            lines.append(f"| {name} | {summarise(own.values()).mean:.2f} | {each} | {len(own)} |")
    if len(found) == 2 and len(both := found["direct"].keys() & found["Winograd"].keys()) > 1:
        gains = summarise([found["Winograd"][seed] - found["direct"][seed] for seed in both])
        lines.append(f"| difference | {gains.mean:+.2f} ± {gains.half:.2f} | | {len(both)} |")
    devices = ", ".join(sorted({row["device"] for row in rows}))
    note = (
        f"{devices}, fp32. 32-128-128 after {IMAGES:,} images of Fashion-MNIST: % of 10,000 held-out images, in views"
        " along the diagonal; the difference with its 95 % interval."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments)
    if why := obstacle():
        raise InputError(f"there are no Winograd convolutions here: {why}")
    for seed in options.get("seeds", "0,1,2,3,4").split(","):
        for name, is_on in CONTENDERS.items():
            about = {"convolutions": name, "seed": seed}
            if not any(about.items() <= row.items() for row in read(ROWS)):
                use_winograd(is_on)
                row = measure("fashion_mnist", NETWORK, IMAGES, int(seed))
                append(ROWS, {**about, **{key: row[key] for key in row if key != "seconds"}})
                TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
