"""Measures the speed of a step by `micro_batch_size`, the part of a batch that is computed at once.

python benchmarks/micro_batch_size.py      about 3 minutes on two cores; reads data sets in FASTCONV_DATA

The value of each model in `conf/model` was chosen by this table, once, and is the same on every machine.
"""

import time

from bare_loop import BareLoop, plan
from measurements import Table

ROUNDS = 5
SIZES = (32, 64, 128, 256, 512)
SPEED = Table("micro_batch_size", "DavidNet on CIFAR-10, batches of 512 in parts", "images/s", ours="parts of 256")
STEPS = 2


def main() -> None:
    loops = {}
    for number in range(ROUNDS):
        for size in SIZES:
            name = f"parts of {size}"
            if SPEED.lacks(number, name):
                if name not in loops:
                    overrides = (
                        "dataset=cifar10",
                        "schedule.max_epochs=1",
                        "budget.seconds=null",
                        f"micro_batch_size={size}",
                    )
                    loops[name] = BareLoop(plan(*overrides))
                    loops[name].step()
                started = time.perf_counter()
                for _ in range(STEPS):
                    loops[name].step()
                SPEED.add(number, name, STEPS * 512 / (time.perf_counter() - started))
    SPEED.show()


if __name__ == "__main__":
    main()
