"""`python -m fastconv.train`, disturbed or watched: python disturbed.py key=value ...

DISTURB="module:owner.function call signal" sends the process that signal in a certain call of a function.
RECORD=folder writes a row for each microbatch to `<folder>/<rank>-<process>.csv`: sha256 of its bytes, loss, learning
rate and progress of its step, and when it began and ended.
"""

import csv
import functools
import hashlib
import importlib
import itertools
import os
import time
from pathlib import Path


def find(path):
    """(owner, name) of a function, from `module:owner.function`."""
    module, _, names = path.partition(":")
    *owners, name = names.split(".")
    return functools.reduce(getattr, owners, importlib.import_module(module)), name


def disturb(path, call, number):
    owner, name = find(path)
    original, calls = getattr(owner, name), itertools.count(1)

    def disturbed(*arguments, **settings):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments, **settings)

    setattr(owner, name, disturbed)


def record(folder):
    from fastconv.callbacks import TimeBudget
    from fastconv.system.distributed import rank
    from fastconv.training.module import ImageClassifier

    original = ImageClassifier._score_training
    file = Path(folder, f"{rank()}-{os.getpid()}.csv").open("w", newline="", buffering=1)  # noqa: SIM115 - open until the process ends
    writer = csv.writer(file)
    writer.writerow(["sha256", "loss", "lr", "progress", "began", "ended"])

    def recorded(self, *batch):
        began = time.monotonic()
        loss, sums = original(self, *batch)
        digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()
        budget = next(each for each in self.trainer.callbacks if isinstance(each, TimeBudget))
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        writer.writerow([digest, float(loss), lr, budget.progress, began, time.monotonic()])
        return loss, sums

    ImageClassifier._score_training = recorded


if __name__ == "__main__":
    if "DISTURB" in os.environ:
        path, call, number = os.environ["DISTURB"].split()
        disturb(path, int(call), int(number))
    if "RECORD" in os.environ:
        record(os.environ["RECORD"])
    from fastconv.train import main

    main()
