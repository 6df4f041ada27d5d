"""fastconv's training step as a plain loop: the same batches, network and arithmetic, without Lightning.

`Pairs` times it against fastconv's own path, in turn within one process, so that a drift of the machine's speed falls
on both alike.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from unittest import mock

import lightning as L
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from rich.console import Console

from fastconv.budget.clock import Clock
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.config.resume import RunFolder
from fastconv.data.batches import StreamBatches
from fastconv.data.prefetch import Prefetch
from fastconv.data.stream.device import DeviceStream
from fastconv.models import build_model
from fastconv.optim import SGD
from fastconv.optim.param_groups import decay_groups
from fastconv.runs.results import Results
from fastconv.training import fit as training
from fastconv.training.callbacks.recorder import RECORDS
from fastconv.training.plan import Run, plan_run
from fastconv.training.run import settle
from fastconv.training.run_stream import open_stream, precompute


def plan(*overrides: str, max_steps: int | None = None) -> Run:
    """A run as `python -m fastconv.train overrides ...` plans it, with its stream on disk.

    Args:
        max_steps: steps after which it ends; None for those of its settings.
    """
    config, clock = OmegaConf.to_object(compose("train", list(overrides))), Clock()
    data = check_data(config)
    choice = settle(config, data, list(overrides), clock)
    run = plan_run(choice.config, data, clock, choice.speed, choice.threads)
    if max_steps is not None:
        epochs = math.ceil(max_steps * run.config.batch_size / run.spec.samples)
        stored = max(run.plan.stream_epochs, epochs) if run.config.stream.is_stored else 0
        run = replace(run, plan=replace(run.plan, max_steps=max_steps, stream_epochs=stored))
    return precompute(run, Console(quiet=True))


class BareLoop:
    """Trains on a run's stream with nothing but torch."""

    def __init__(self, run: Run) -> None:
        config, spec, device = run.config, run.spec, run.device
        self.device, self.parts = device, config.batch_size // config.micro_batch_size
        torch.manual_seed(config.seed)
        self.model = build_model(config.model.name, spec.shape[2], len(spec.classes), **run.model_settings)
        self.model.to(device.kind, memory_format=torch.channels_last)
        if isinstance(config.optimizer, SGD):
            groups = decay_groups(self.model, 0.01, config.optimizer.weight_decay)
            self.optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True)
        else:
            self.optimizer = config.optimizer.build(self.model, config.batch_size, device.precision)
        std = torch.tensor(spec.std, device=device.kind).view(-1, 1, 1)
        self.scale, self.shift = 1 / (255 * std), -torch.tensor(spec.mean, device=device.kind).view(-1, 1, 1) / std
        self.loss_of = torch.compile(self._loss, dynamic=False) if device.compile else self._loss
        self.stream = open_stream(run)
        batches = StreamBatches(self.stream, config.batch_size, config.micro_batch_size)
        if isinstance(self.stream, DeviceStream):
            self.stream.place_on(torch.device(device.kind))
        elif device.kind == "cuda":
            batches = Prefetch(batches, torch.device("cuda"))
        self.batches = iter(batches)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.model(images.permute(0, 3, 1, 2) * self.scale + self.shift), labels) / self.parts

    def step(self) -> None:
        self.train_on(*next(self.batches))

    def train_on(self, batch_images: torch.Tensor, batch_labels: torch.Tensor) -> None:
        for images, labels in zip(batch_images, batch_labels, strict=True):
            with self.device.autocast():
                loss = self.loss_of(images, labels)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class GraphLoop(BareLoop):
    """The same on a GPU as one CUDA graph, which is captured in the first step.

    That must come after a Trainer has begun to train: then Lightning frees the memory that cuBLAS computes in
    (`_clear_cuda_memory`), which the graph uses.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _capture(self) -> torch.cuda.CUDAGraph:
        torch.backends.cudnn.benchmark = True
        self.images, self.labels = (part.clone() for part in next(self.batches))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.train_on(self.images, self.labels)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            self.train_on(self.images, self.labels)
        return graph

    def step(self) -> None:
        self.graph = self.graph or self._capture()
        images, labels = next(self.batches)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()


class Pairs(L.Callback):
    """Times fastconv's training in groups of `group` steps, and the others after each group.

    `found` receives (fastconv's images/s, the other contenders' values) for each pair.

    Args:
        prepare: is called when training starts.
    """

    def __init__(
        self,
        run: Run,
        group: int,
        warm_up: int,
        others: dict[str, Callable[[], float]],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.images, self.group, self.warm_up, self.others = run.config.batch_size * group, group, warm_up, others
        self.prepare = prepare
        self.device = run.device
        self.found: list[tuple[float, dict[str, float]]] = []
        self._since: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.prepare()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx < self.warm_up or (batch_idx - self.warm_up) % self.group:
            return
        wait_for(self.device)
        if self._since is not None:
            ours = self.images / (time.perf_counter() - self._since)
            self.found.append((ours, {name: measure() for name, measure in self.others.items()}))
        self._since = time.perf_counter()


class Stub(torch.nn.Module):
    """A network that computes next to nothing: what remains of a step is the host's time."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images[:, :, 0, 0])


@contextmanager
def stubbed_network() -> Iterator[None]:
    """Within the block, both paths train a `Stub` instead of the run's network."""

    def make(name: str, channels: int, classes: int, **_: object) -> Stub:
        return Stub(channels, classes)

    with mock.patch("fastconv.training.module.build_model", make), mock.patch(f"{__name__}.build_model", make):
        yield


class Calls(L.Callback):
    """Counts the Python functions that each step calls: that does not depend on how busy the machine is.

    As a callback it counts fastconv's steps, from `warm_up` on; `of` counts any other's.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.found, self._calls = warm_up, list[int](), 0

    def _note(self, frame: object, event: str, _: object) -> None:
        self._calls += event == "call"

    def of(self, work: Callable[[], object]) -> int:
        """The number of calls within a piece of work."""
        self._calls = 0
        sys.setprofile(self._note)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self._calls

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx > self.warm_up:
            self.found.append(self._calls)
        self._calls = 0
        sys.setprofile(self._note)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sys.setprofile(None)


def wait_for(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()


def train_with(run: Run, timer: L.Callback, overrides: list[str]) -> Results:
    """Train by fastconv's own path, with one more callback; return the results."""
    make_trainer = training.make_trainer
    with (
        tempfile.TemporaryDirectory() as folder,
        # First of the callbacks, so that all that fastconv's own do is inside its time.
        mock.patch.object(
            training, "make_trainer", lambda run, loggers, own, *more: make_trainer(run, loggers, [timer, *own], *more)
        ),
    ):
        return training.fit(run, Console(quiet=True), RunFolder(Path(folder), run.config, resumed=False), overrides)


def measure_pairs(
    overrides: list[str],
    pairs: int,
    group: int,
    warm_up: int,
    others: dict[str, Callable[[], float]] | None = None,
    loop: type[BareLoop] = BareLoop,
) -> dict[str, float]:
    """Train by fastconv's own path, with the bare loop (and `others`) in turn: images/s of each.

    Of all pairs, the one with the median ratio. A pair is `group` steps of either, after `warm_up` steps.

    Args:
        others: further contenders.
        loop: the bare loop. Beside a `GraphLoop`, `graphs` is the number of graphs that fastconv trained by.
    """
    given = [*overrides, "schedule.max_epochs=1", "budget.seconds=null", "validate.on=none"]
    run = plan(*given, max_steps=warm_up + pairs * group + 1)
    bare = loop(run)

    def warm() -> None:
        for _ in range(warm_up):
            bare.step()

    def time_bare() -> float:
        started = time.perf_counter()
        for _ in range(group):
            bare.step()
        wait_for(run.device)
        return run.config.batch_size * group / (time.perf_counter() - started)

    timer = Pairs(run, group, warm_up, {"bare loop": time_bare, **(others or {})}, warm)
    results = train_with(run, timer, overrides)
    bare.stream.close()
    fast, others = sorted(timer.found, key=lambda pair: pair[0] / pair[1]["bare loop"])[len(timer.found) // 2]
    return {"fastconv": fast, **others} | ({"graphs": results.cuda_graphs or 0} if loop is not BareLoop else {})


def count_calls(overrides: list[str], steps: int, warm_up: int, every: int = 1) -> dict[str, int]:
    """Python functions that a step calls, by fastconv's own path and by the bare loop: the median of `steps` steps.

    Args:
        every: steps between two rows of the curves.
    """
    given = [*overrides, "schedule.max_epochs=1", "budget.seconds=null", "validate.on=none"]
    run = plan(*given, max_steps=warm_up + steps + 1)
    run = replace(run, plan=replace(run.plan, steps=RECORDS * every))
    bare, calls = BareLoop(run), Calls(warm_up)
    for _ in range(warm_up):
        bare.step()
    alone = median_low(Calls(0).of(bare.step) for _ in range(steps))
    bare.stream.close()
    # What is due every second would be due at each step of a machine that is busy enough.
    with mock.patch("fastconv.training.callbacks.checkpoints.JOURNAL_SECONDS", math.inf):
        train_with(run, calls, overrides)
    return {"fastconv": median_low(calls.found), "bare loop": alone}
