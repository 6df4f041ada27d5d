"""`python -m fastconv.train`, disturbed or watched: python disturbed.py key=value ...

DISTURB="module:owner.function call signal" sends the process that signal in a certain call of a function; with
DISTURB_RANK=1 only that rank. Not in processes that torchrun or SLURM has started anew.
RECORD=folder writes a row for each microbatch to `<folder>/<rank>-<process>.csv`: sha256 of its bytes, loss, learning
rate and progress of its step, and when it began and ended.
DIGESTS=folder writes a row to `<folder>/<restarts>/<rank>-<process>.csv` when training begins and after each step: the
number of steps so far, and the sha256 of all parameters and of the state of the optimizer.
COLLECTIVES=folder writes to `<folder>/<rank>.csv` how many exchanges with other ranks each step makes, besides those of
gradients: how many it waits for, and how many it only begins.
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


def record_digests(folder):
    from fastconv.callbacks import Checkpoints, TimeBudget
    from fastconv.system.cluster import attempt
    from fastconv.system.distributed import rank

    path = Path(folder, str(attempt()), f"{rank()}-{os.getpid()}.csv")
    path.parent.mkdir(exist_ok=True)
    writer = csv.writer(path.open("w", newline="", buffering=1))
    writer.writerow(["step", "parameters", "state"])

    def digest(tensors):
        return hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in tensors)).hexdigest()

    def write(trainer, module):
        (optimizer,) = trainer.optimizers
        budget = next(each for each in trainer.callbacks if isinstance(each, TimeBudget))
        states = [optimizer.state[each] for group in optimizer.param_groups for each in group["params"]]
        kept = [state[name] for state in states for name in sorted(state) if hasattr(state[name], "numpy")]
        writer.writerow([budget.steps, digest(module.parameters()), digest(kept)])

    def before(name):  # the last callback, which may end the run
        original = getattr(Checkpoints, name)

        def written(self, trainer, module, *arguments):
            write(trainer, module)
            return original(self, trainer, module, *arguments)

        setattr(Checkpoints, name, written)

    before("on_train_start")
    before("on_train_batch_end")


def count_collectives(folder):
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    from fastconv.callbacks import TimeBudget
    from fastconv.system.distributed import rank

    counts, inside = {"waits": 0, "begins": 0}, [0]

    def count(name):
        original = getattr(dist, name)

        @functools.wraps(original)
        def counted(*arguments, **settings):
            if not inside[0]:  # one of several parts calls others
                counts["begins" if settings.get("async_op") else "waits"] += 1
            inside[0] += 1
            try:
                return original(*arguments, **settings)
            finally:
                inside[0] -= 1

        setattr(dist, name, counted)
        setattr(distributed_c10d, name, counted)

    for name in ("all_reduce", "broadcast", "barrier", "reduce", "gather", "scatter", "all_gather",
                 "broadcast_object_list", "all_gather_object"):  # fmt: skip
        count(name)
    file = Path(folder, f"{rank()}.csv").open("w", newline="", buffering=1)  # noqa: SIM115 - open until the process ends
    writer = csv.writer(file)
    writer.writerow(counts)
    original = TimeBudget.on_train_batch_start

    def started(self, *arguments):
        writer.writerow(counts.values())  # from the start of one step to that of the next
        counts.update(waits=0, begins=0)
        original(self, *arguments)

    TimeBudget.on_train_batch_start = started


if __name__ == "__main__":
    is_victim = os.environ.get("DISTURB_RANK") in (None, os.environ.get("RANK"))
    is_first_attempt = {os.environ.get(f"{name}_RESTART_COUNT", "0") for name in ("TORCHELASTIC", "SLURM")} == {"0"}
    if "DISTURB" in os.environ and is_victim and is_first_attempt:
        path, call, number = os.environ["DISTURB"].split()
        disturb(path, int(call), int(number))
    if "RECORD" in os.environ:
        record(os.environ["RECORD"])
    if "DIGESTS" in os.environ:
        record_digests(os.environ["DIGESTS"])
    if "COLLECTIVES" in os.environ:
        count_collectives(os.environ["COLLECTIVES"])
    from fastconv.train import main

    main()
