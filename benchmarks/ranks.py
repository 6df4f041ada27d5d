"""Measures a step of two ranks, on a core each, beside plain Lightning's DDP with the same network and batches.

python benchmarks/ranks.py [BLOCKS] [STEPS]    about 4 minutes; CIFAR-10 is looked for in FASTCONV_DATA
python benchmarks/ranks.py count [KEY=VALUE ...]    prints what a step of each rank calls and sends, as json

fastconv trains as a run does, with a time limit. Between blocks of its steps, the same two processes train plain
Lightning's.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median_low
from unittest import mock

import lightning as L
import torch
import torch.nn.functional as F
from bare_loop import Calls, train_with
from measurements import Table
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastconv.budget.clock import Clock
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.data.batches import StreamBatches
from fastconv.models import build_model
from fastconv.models.classifier import Classifier
from fastconv.system.distributed import is_first_rank, rank, world
from fastconv.training.callbacks.recorder import RECORDS
from fastconv.training.plan import Run, plan_run
from fastconv.training.run_stream import open_stream
from fastconv.training.trainer import silence_lightning

RANKS = 2
BLOCKS, STEPS, WARM_UP = 20, 24, 4
STEP = Table("ranks", "A step of two ranks: DavidNet of width 16, CIFAR-10, 64 images a rank", "ms", "fastconv", True)
PLAIN, CPU, PLAIN_CPU = "plain Lightning's DDP", "fastconv, CPU time", "plain Lightning's DDP, CPU time"
# The same arithmetic in both. A network this narrow leaves little of a step to it.
SETTINGS = (
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.precision=fp32", "trainer.winograd=off",
    "stream=online", "augment=none", "tta.flip=false", "tta.shift=0", "budget.seconds=1e6", "validate.on=none",
    "checkpoint.every=null", "figures=false",
)  # fmt: skip
TIMED = ("dataset=cifar10", "model.width=16", "batch_size=128", "micro_batch_size=64")


# Steps of a run that is stopped early: so many that none of the first ones is due to print a line of progress.
MANY = 10_000


class Plain(L.LightningModule):
    """A run's network as Lightning's documentation trains one on several devices."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        network = build_model(run.config.model.name, run.spec.shape[2], len(run.spec.classes), **run.model_settings)
        self.network = Classifier(network.to(memory_format=torch.channels_last), run.spec.mean, run.spec.std)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = (part.flatten(0, 1) for part in batch)  # of all microbatches
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Blocks(L.Callback):
    """Times blocks of `steps` steps, each after `WARM_UP` others, and does something else `between` blocks.

    `found` has the milliseconds of wall and of CPU time that a step of each block took, of this rank.
    """

    def __init__(self, steps: int, between: Callable[[], object] = lambda: None) -> None:
        self.steps, self.between, self.found = steps, between, list[tuple[float, float]]()
        self._since = 0.0, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        place, now = batch_idx % (WARM_UP + self.steps), (time.perf_counter(), time.process_time())
        if place == WARM_UP:
            self._since = now
        elif place == 0 and batch_idx:
            wall, cpu = (1000 * (end - start) / self.steps for end, start in zip(now, self._since, strict=True))
            self.found.append((wall, cpu))
            self.between()


class Messages(TorchDispatchMode):
    """Counts the messages that all ranks exchange within it, those of gradients too, and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return func(*args, **(kwargs or {}))


class Counts(Calls):
    """Counts Python functions in `STEPS` steps, then messages in as many others, from the start of one to the next."""

    STEPS = 5

    def __init__(self) -> None:
        super().__init__(WARM_UP)
        self.sent: list[list[int]] = []
        self._messages: Messages | None = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx <= WARM_UP + self.STEPS:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            return
        sys.setprofile(None)
        self._leave()
        if len(self.sent) < self.STEPS:
            self._messages = Messages()
            self._messages.__enter__()
        else:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._leave()

    def _leave(self) -> None:
        if self._messages is not None:
            self._messages.__exit__(None, None, None)
            self.sent.append(self._messages.sizes)
            self._messages = None

    def medians(self) -> dict[str, int]:
        """Of a step: functions, messages and their bytes."""
        return {
            "functions": median_low(self.found),
            "messages": median_low(map(len, self.sent)),
            "bytes": median_low(map(sum, self.sent)),
        }


def plan(*overrides: str) -> Run:
    """A run of all ranks, as `python -m fastconv.train overrides ...` plans it."""
    config = OmegaConf.to_object(compose("train", list(overrides)))
    return plan_run(config, check_data(config), Clock())


def train_plainly(run: Run, steps: int, callback: L.Callback) -> None:
    """Train a run's network on its batches by Lightning's own DDP."""
    torch.manual_seed(0)
    config, stream = run.config, open_stream(run)
    trainer = L.Trainer(
        accelerator="cpu", devices=RANKS, strategy="ddp", max_steps=steps, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Plain(run), StreamBatches(stream, config.batch_size, config.micro_batch_size, rank(), RANKS))
    stream.close()


def with_steps(run: Run, steps: int, every: int | None = None) -> Run:
    """A run of so many steps, with a row of the curves every `every` of them; None for as many as it would have."""
    planned = run.plan.steps if every is None else RECORDS * every
    return replace(run, plan=replace(run.plan, max_steps=steps, steps=planned))


def measure(blocks: int, steps: int) -> None:
    """Train blocks of both in turn; the first rank keeps the times of their steps."""
    silence_lightning()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank() % len(cores)]})
    run, period, plain = plan(*SETTINGS, *TIMED), WARM_UP + steps, Blocks(steps)
    ours = Blocks(steps, between=lambda: train_plainly(run, period + 1, plain))
    train_with(with_steps(run, blocks * period + 1), ours, [])
    if not is_first_rank():
        return
    first = max(STEP.rounds(), default=-1) + 1
    for number, found in enumerate(zip(ours.found, plain.found, strict=True), first):
        (wall, cpu), (plain_wall, plain_cpu) = found
        for contender, value in (("fastconv", wall), (PLAIN, plain_wall), (CPU, cpu), (PLAIN_CPU, plain_cpu)):
            STEP.add(number, contender, value)
    each = ", ".join(f"{ours / other:.3f}" for (ours, _), (other, _) in zip(ours.found, plain.found, strict=True))
    STEP.show(
        counterparts={CPU: CPU, PLAIN_CPU: CPU},
        note=f"A round is a block of {steps} steps of each, in turn, in the same two processes on a core each, in fp32."
        f" The last run's blocks took fastconv {each} of plain Lightning's time.",
    )


def count(*overrides: str, every: int = MANY) -> dict[str, dict[str, int]]:
    """What a step of this rank calls and sends, by both: the median of `Counts.STEPS` steps.

    Args:
        every: steps between two rows of the curves.
    """
    silence_lightning()
    run = with_steps(plan(*SETTINGS, *(overrides or TIMED)), MANY, every)
    ours, plain = Counts(), Counts()
    train_plainly(run, MANY, plain)
    # What is due every second would be due at each step of a machine that is busy enough.
    with mock.patch("fastconv.training.callbacks.checkpoints.JOURNAL_SECONDS", math.inf):
        train_with(run, ours, [])
    return {"fastconv": ours.medians(), "plain": plain.medians()}


def main(*given: str) -> None:
    if world() == 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        raise SystemExit(subprocess.run([*command, __file__, *given], check=False).returncode)
    if given[:1] == ("count",):
        print(json.dumps({"rank": rank(), **count(*given[1:])}))
    else:
        measure(*(int(each) for each in (*given, *(BLOCKS, STEPS)[len(given) :])))


if __name__ == "__main__":
    main(*sys.argv[1:])
