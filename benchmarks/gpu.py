"""On a GPU: fastconv's training step against a bare compiled loop, and the article's 25 epochs on its three data sets.

python benchmarks/gpu.py          some minutes on one GPU; the data sets are looked for in FASTCONV_DATA

Needs the source tree, torch, torchvision and the pure-Python packages of requirements.lock; no installation.
"""

import original
import torch
from bare_loop import measure_pairs
from measurements import Table

ROUNDS = 5


def compare(table: Table, overrides: list[str], pairs: int = 9, group: int = 50, warm_up: int = 20) -> None:
    """Measure and show both loops."""
    for number in range(ROUNDS):
        if table.lacks(number, "fastconv", "bare loop"):
            for contender, value in measure_pairs(overrides, pairs, group, warm_up).items():
                table.add(number, contender, value)
    table.show(note="Both loops are compiled, and timed in turn within one process.")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; benchmarks/step.py measures the CPU")
    compare(Table("gpu", "DavidNet on CIFAR-10, batches of 512", "images/s", ours="fastconv"), ["dataset=cifar10"])
    original.main(folder="original-gpu")


if __name__ == "__main__":
    main()
