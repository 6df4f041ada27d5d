"""Measures the training step: fastconv's own path against a bare loop, plain Lightning and the matrix product.

python benchmarks/step.py          about 12 minutes on two cores; the data sets are looked for in FASTCONV_DATA
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from bare_loop import measure_pairs, stubbed_network
from measurements import Table

from fastconv.budget.flops import training_flops

ROUNDS = 5
STEP = Table("step", "The training step: CIFAR-10, batches of 512", "images/s", ours="fastconv")
CEILING, PLAIN = "bf16 matrix product of the same work", "plain Lightning"
NARROW, NARROW_BARE = "fastconv, width 20", "bare loop, width 20"
# The host's time of a step: fastconv's should be at most 1.5 times the bare loop's.
HOST, HOST_BARE = "fastconv, network stubbed", "bare loop, network stubbed"
# A size at which the product reaches what the processor can do.
MATRIX, PRODUCTS = 2048, 30


def matrix_product(dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a product on all cores."""
    a, b = (torch.randn(MATRIX, MATRIX, dtype=dtype) for _ in range(2))
    a @ b
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        a @ b
    return PRODUCTS * 2 * MATRIX**3 / (time.perf_counter() - started)


def plain_lightning(steps: int = 4) -> float:
    """images/s of DavidNet in a newcomer's program, in a process of its own."""
    program, data = Path(__file__).with_name("plain_lightning.py"), os.environ.get("FASTCONV_DATA", "data")
    command = [sys.executable, str(program), data, str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    flop = training_flops("davidnet", {}, (32, 32, 3), 10)
    ceiling = {CEILING: lambda: matrix_product() / flop}
    for number in range(ROUNDS):
        if STEP.lacks(number, "fastconv", "bare loop", CEILING):
            found = measure_pairs(["dataset=cifar10"], pairs=5, group=3, warm_up=3, others=ceiling)
            for contender, value in found.items():
                STEP.add(number, contender, value)
        if STEP.lacks(number, NARROW, NARROW_BARE):
            found = measure_pairs(["dataset=cifar10", "model.width=20"], pairs=7, group=12, warm_up=6)
            STEP.add(number, NARROW, found["fastconv"])
            STEP.add(number, NARROW_BARE, found["bare loop"])
        if STEP.lacks(number, HOST, HOST_BARE):
            given = ["dataset=cifar10", "batch_size=64", "micro_batch_size=32", "checkpoint.every=null"]
            with stubbed_network():
                found = measure_pairs(given, pairs=15, group=20, warm_up=20)
            STEP.add(number, HOST, found["fastconv"])
            STEP.add(number, HOST_BARE, found["bare loop"])
        if STEP.lacks(number, PLAIN):
            STEP.add(number, PLAIN, plain_lightning())
    STEP.show(
        counterparts={NARROW: NARROW, NARROW_BARE: NARROW, HOST: HOST, HOST_BARE: HOST},
        note=f"DavidNet takes {flop / 1e9:.3f} GFLOP per image, forward and backward; fastconv runs at"
        f" {STEP.ratio(CEILING):.1%} of the FLOP/s of the bf16 matrix product. fastconv, the bare loop and the product"
        " are timed in turn within one process; a round's values are those of the pair with the median ratio.",
    )


if __name__ == "__main__":
    main()
