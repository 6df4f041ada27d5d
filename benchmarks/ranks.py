"""What a step of two ranks costs beside plain Lightning's DDP, with the same network and batches.

torchrun --standalone --nproc-per-node=2 benchmarks/ranks.py [BLOCKS] [STEPS]

Alternates blocks of steps of both in one run, and prints the ratio of the median wall times and CPU times of a step,
with those of each block. On busy cores the ratio says little; the number of collectives in a step, which it prints too,
depends on nothing.
"""

import collections
import os
import statistics
import sys
import time

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from fastconv.callbacks import Checkpoints, FiniteLoss, OneCycleLR, Recorder, TimeBudget
from fastconv.models import build_model
from fastconv.optim.sgd import SGD
from fastconv.training.callbacks import ShareSteps
from fastconv.training.module import ImageClassifier

BATCH, SHAPE, CLASSES, WIDTH = 128, (32, 32, 3), 10, 16
COLLECTIVES = ("all_reduce", "broadcast", "barrier", "all_gather", "broadcast_object_list")


class Plain(L.LightningModule):
    """The network as a newcomer would train it on several devices."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build_model("davidnet", channels=SHAPE[2], classes=CLASSES, width=WIDTH)

    def training_step(self, batch, batch_idx):
        images, labels = (part[0] for part in batch)
        return F.cross_entropy(self.model(images.float().permute(0, 3, 1, 2) / 255 - 0.5), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Stopwatch(L.Callback):
    """Wall and CPU seconds between the ends of steps, and the collectives in them; the first steps are left out."""

    WARM_UP = 3

    def __init__(self, counts) -> None:
        self.walls, self.cpus, self.calls, self._counts = [], [], [], counts

    def on_train_batch_end(self, *_) -> None:
        self.walls.append(time.perf_counter())
        self.cpus.append(time.process_time())
        self.calls.append(sum(self._counts.values()))

    def medians(self):
        return tuple(statistics.median(np.diff(each[self.WARM_UP :])) for each in (self.walls, self.cpus, self.calls))


def counted():
    """Count the calls of torch.distributed from now on."""
    counts = collections.Counter()
    for name in COLLECTIVES:
        original = getattr(dist, name)

        def call(*arguments, name=name, original=original, **settings):
            counts[name] += 1
            return original(*arguments, **settings)

        setattr(dist, name, call)
    return counts


def batches():
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    images = torch.randint(0, 256, (1, BATCH // 2, *SHAPE), dtype=torch.uint8, generator=generator)
    while True:
        yield images, torch.randint(0, CLASSES, (1, BATCH // 2), generator=generator)


def block(ours: bool, steps: int, counts):
    """Train some steps; return the medians of a step."""
    torch.manual_seed(0)
    stopwatch = Stopwatch(counts)
    callbacks = [stopwatch]
    module = Plain()
    if ours:
        module = ImageClassifier(
            "davidnet", {"width": WIDTH}, SHAPE, tuple(map(str, range(CLASSES))), (0.5,) * 3, (1.0,) * 3,
            optimizer=lambda model: SGD().build(model, batch_size=BATCH, precision="fp32"), channels_last=False,
        )  # fmt: skip
        budget = TimeBudget(seconds=1e6, max_steps=steps)
        recorder = Recorder(budget, 50_000, BATCH, every=max(1, steps // 4))
        callbacks = [budget, ShareSteps(budget), OneCycleLR(), recorder, FiniteLoss(budget, recorder),
                     Checkpoints(None, None, budget), stopwatch]  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=-1 if ours else steps, max_epochs=1, logger=False,
        callbacks=callbacks, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    if ours and hasattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"):
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # as `make_trainer` does
    trainer.fit(module, batches())
    return stopwatch.medians()


def main(blocks: int, steps: int) -> None:
    torch.set_num_threads(1)
    counts = counted()
    found = {ours: [] for ours in (True, False)}
    for _ in range(blocks):
        for ours in found:
            found[ours].append(block(ours, steps, counts))
    if os.environ["RANK"] != "0":
        return
    for at, what in enumerate(("wall", "CPU", "collectives")):
        each = {ours: [row[at] for row in rows] for ours, rows in found.items()}
        middle = {ours: statistics.median(values) for ours, values in each.items()}
        print(f"{what}: fastconv {middle[True]:.4g}, plain {middle[False]:.4g}, ratio", end=" ")
        ratios = [ours / max(plain, 1e-9) for ours, plain in zip(each[True], each[False], strict=True)]
        print(f"{middle[True] / max(middle[False], 1e-9):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")


if __name__ == "__main__":
    main(*(int(each) for each in (*sys.argv[1:], 5, 40)[:2]))
