"""Compares training shortcuts at equal work: low resolution early, data pruning, other networks and settings.

PYTHONPATH=benchmarks python benchmarks/research/equal_work.py [--workers 7] [--limit SECONDS]

The unit of work is an epoch of airbench94's network on 40,000 images of 32x32 on two bf16 cores: 20 of them take about
1000 s there; 6, 2 and 0.6 take 300, 100 and 30 s. The cost of an image at each size was measured there (COST; that of
"16" at 28 pixels is interpolated). A GPU does the work in a plain loop with all images in its memory, which changes no
result. Trains on all but 10,000 training images and scores these in all views. Appends to
benchmarks/results/equal_work.csv and makes equal_work.md of it; runs that have a row are skipped. 5 s a run on an H100.
"""

import argparse
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from clustered import DATA, clustered
from measurements import RESULTS, append, provenance, read, table_head
from torch import Tensor

from fastconv.data.dataset import mean_and_std
from fastconv.data.loading import load
from fastconv.models import build_model
from fastconv.models.tta import Views
from fastconv.optim import Muon

ROWS, TABLE = RESULTS / "equal_work.csv", RESULTS / "equal_work.md"
DEEP = {"convs": 3, "residual": True, "norm_momentum": 0.1}
NETWORKS = {
    "16": {"widths": [16, 64, 64]},
    "32": {"widths": [32, 128, 128]},
    "64": {},  # airbench94
    "64-192-384": {"widths": [64, 192, 384]},
    "96-256-384": {"widths": [96, 256, 384]},
    "64-128-256 deep": {"widths": [64, 128, 256], **DEEP},
    "64-192-256 deep": {"widths": [64, 192, 256], **DEEP},
    "64-256-256 deep": {"widths": [64, 256, 256], **DEEP},
    "95": {"widths": [128, 384, 384]},
}
# Cost of an image by network and pixels a side, relative to airbench94's network and 32x32.
COST = {
    ("16", 32): 0.226, ("16", 28): 0.18, ("16", 24): 0.137, ("16", 16): 0.079, ("32", 32): 0.42, ("32", 28): 0.38,
    ("32", 24): 0.265, ("32", 16): 0.13, ("64", 32): 1.0, ("64", 28): 0.926, ("64", 24): 0.68, ("64", 21): 0.63,
    ("64", 16): 0.385, ("64-192-384", 32): 1.115, ("96-256-384", 32): 1.495, ("64-128-256 deep", 32): 0.96,
    ("64-192-256 deep", 32): 1.2,
    ("64-256-256 deep", 32): 1.45, ("95", 32): 2.4, ("95", 28): 2.2, ("95", 24): 1.71,
}  # fmt: skip
WORK, HELD = 40_000, 10_000


@dataclass(frozen=True)
class Trial:
    """One run.

    `low`: pixels a side in the first `share` of the work (0: full resolution). `move`, `cut`: pixels of shift and
    cutout. `keep`: share of the images in each epoch; the most confident ones are pruned, none in two epochs in a row.
    `proxy`: epochs of a 16-64-64 network that supplies the confidence; with 0 the trained network itself supplies it.
    `kernel`: side of the whitening's patches (0: the network's own). `flip_until`: share of the work after which no
    image is flipped. `still`: share of the work at the end in which no image is shifted.
    """

    dataset: str = "cifar10"
    network: str = "64"
    work: float = 20.0
    batch_size: int = 2000
    max_lr: float = 0.24
    low: int = 0
    share: float = 0.0
    move: int = 2
    cut: int = 0
    flip: int = 1
    label_smoothing: float = 0.2
    keep: float = 1.0
    kernel: int = 0
    proxy: float = 0.0
    flip_until: float = 1.0
    still: float = 0.0
    seed: int = 0

    @property
    def about(self) -> dict[str, str]:
        return {key: str(value) for key, value in asdict(self).items()}

    @property
    def settings(self) -> str:
        """The settings that differ from `experiment=speedrun`."""
        own, usual = asdict(self), asdict(Trial(flip=self.flip if self.dataset == "mnist" else 1))
        keys = [key for key in own if own[key] != usual[key] and key not in ("dataset", "work", "seed", "network")]
        return ", ".join(f"{key} {own[key]:g}" for key in keys)


def trials() -> list[Trial]:
    found = [Trial(seed=seed) for seed in (0, 1, 2)]

    def add(*seeds: int, **given) -> None:
        found.extend(Trial(**given, seed=seed) for seed in seeds)

    for low, share in ((24, 0.5), (24, 0.75), (16, 0.4)):
        add(0, 1, low=low, share=share)
    add(0, 1, network="95")
    add(0, 1, network="95", low=24, share=0.6)
    add(0, 1, network="95", low=24, share=0.6, move=4, cut=8)
    add(0, 1, keep=0.7)
    add(0, 1, batch_size=1000, max_lr=0.17)
    add(0, batch_size=1000)
    add(0, 1, move=4)
    add(0, 1, move=4, cut=8)
    add(0, 1, move=4, cut=8, low=24, share=0.5)
    add(0, 1, move=4, cut=8, low=24, share=0.5, keep=0.7)
    for network in ("64-192-384", "96-256-384", "64-128-256 deep", "64-192-256 deep", "64-256-256 deep"):
        add(0, network=network)
    for work, networks, sizes in ((0.6, ("16", "32"), (250, 500)), (2.0, ("16", "32", "64"), (500, 1000)),
                                  (6.0, ("32", "64"), (1000, 2000))):  # fmt: skip
        for network in networks:
            for size in sizes:
                for low, share in ((0, 0.0), (24, 0.6), (16, 0.6)):
                    add(0, work=work, network=network, batch_size=size, low=low, share=share)
    for given in ({}, {"cut": 8}, {"network": "95"}, {"label_smoothing": 0.1}, {"low": 21, "share": 0.5},
                  {"network": "32"}, {"move": 1}, {"kernel": 2}):  # fmt: skip
        add(0, 1, dataset="fashion_mnist", flip=0, **given)
    add(0, dataset="fashion_mnist", flip=0, move=3)
    add(0, dataset="fashion_mnist", flip=0, network="95", cut=8)
    add(0, 1, dataset="fashion_mnist")
    add(0, 1, dataset="fashion_mnist", cut=8)
    add(0, dataset="mnist", flip=0, network="95")
    # Batches of 1000, the choice of experiment=best.
    small = {"keep": 0.7, "proxy": 1.0}
    given = {"work": 20.0, "batch_size": 1000}
    for changed in ({}, small):
        add(0, 1, 2, **given, **changed)
        add(0, 1, 2, **given | {"work": 6.0, "network": "32"}, **changed)
        add(0, 1, 2, **given | {"work": 6.0}, **changed)
    for changed in ({"max_lr": 0.17}, small | {"max_lr": 0.17}, {"keep": 0.7}):
        add(0, 1, **given, **changed)
    given |= {"dataset": "fashion_mnist", "work": 14.0}
    add(3, **given)
    longer = {"keep": 0.7, "proxy": 2.0}
    for changed in ({}, small, longer, {"keep": 0.8, "proxy": 2.0}, {"keep": 0.7}, {"low": 21, "share": 0.5},
                    {"still": 0.15}, {"flip_until": 0.7}, {"max_lr": 0.12}, longer | {"max_lr": 0.17},
                    longer | {"max_lr": 0.12}):  # fmt: skip
        add(0, 1, 2, **given, **changed)
    for changed in ({"keep": 0.5}, {"keep": 0.5, "proxy": 2.0}, {"keep": 0.6, "proxy": 2.0}, {"label_smoothing": 0.1},
                    {"keep": 0.7, "low": 21, "share": 0.5}, {"max_lr": 0.17}, {"max_lr": 0.34}, {"flip": 0},
                    {"flip": 0, "max_lr": 0.17}, longer | {"flip": 0}):  # fmt: skip
        add(0, 1, **given, **changed)
    return found


@cache
def images_of(dataset: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised images [N, C, H, W] and labels to learn from, and held-out ones, on the GPU.

    Args:
        dataset: its name; with `/10` behind it, each class is divided into ten clusters.
    """
    name, _, clusters = dataset.partition("/")
    train, _ = load(name, DATA)
    if clusters:
        train = replace(train, labels=clustered(name, int(clusters), train.images, train.labels))
    order = np.random.default_rng(1234).permutation(len(train))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels = torch.from_numpy(train.images[order]).to(device).permute(0, 3, 1, 2) / 255
    average, deviation = (torch.tensor(each, device=device).view(-1, 1, 1) for each in mean_and_std(train.images))
    pixels, labels = (pixels - average) / deviation, torch.from_numpy(train.labels[order]).to(device)
    return pixels[:-HELD], labels[:-HELD], pixels[-HELD:], labels[-HELD:]


class Batches:
    """Augmented batches of a trial, without end."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._images, self._labels, *_ = images_of(trial.dataset)
        device, count = self._images.device, len(self._images)
        self._random = torch.Generator(device).manual_seed(trial.seed + 1)
        self._flipped = torch.rand(count, generator=self._random, device=device) < 0.5
        self._confidence = torch.zeros(count, device=device)
        self._seen = torch.ones(count, dtype=torch.bool, device=device)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64, device=device)
        self._turn = torch.rand(count, generator=self._random, device=device) < 0.5
        self._easy: Tensor | None = None
        self.progress = 0.0

    def prune(self, confidence: Tensor) -> None:
        """Skip the most confident images, half of them in one epoch and the other half in the next."""
        self._easy = torch.zeros_like(self._seen)
        self._easy[confidence.topk(round(2 * (1 - self._trial.keep) * len(confidence))).indices] = True

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, images and labels."""
        if len(self._order) < self._trial.batch_size:
            self._epoch += 1
            if self._easy is not None:
                self._seen = ~(self._easy & (self._turn ^ bool(self._epoch % 2)))
            elif self._trial.keep < 1 and not self._trial.proxy and self._epoch >= 3:
                seen = torch.where(self._seen, self._confidence, -1.0)
                easy = seen.topk(round((1 - self._trial.keep) * len(seen))).indices
                self._seen = torch.ones_like(self._seen).index_fill(0, easy, False)
            rows = self._seen.nonzero().flatten()
            self._order = rows[torch.randperm(len(rows), generator=self._random, device=rows.device)]
        rows, self._order = self._order[: self._trial.batch_size], self._order[self._trial.batch_size :]
        return rows, self._augment(rows), self._labels[rows]

    def note(self, rows: Tensor, confidence: Tensor) -> None:
        """Store the probability that the network gave the labels of rows."""
        self._confidence[rows] = confidence

    def _augment(self, rows: Tensor) -> Tensor:
        trial, x = self._trial, self._images[rows]
        count, channels, side = x.shape[:3]
        if trial.flip and self.progress < trial.flip_until:
            flipped = self._flipped[rows] ^ bool(self._epoch % 2)
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
        at = torch.arange(side, device=x.device)

        def corner(most: int) -> Tensor:
            return torch.randint(0, most + 1, (count, 1), generator=self._random, device=x.device)

        if trial.move and self.progress <= 1 - trial.still:
            padded = F.pad(x, (trial.move,) * 4, mode="reflect")
            y, z = corner(2 * trial.move) + at, corner(2 * trial.move) + at
            image, channel = (torch.arange(n, device=x.device) for n in (count, channels))
            x = padded[image[:, None, None, None], channel[:, None, None], y[:, None, :, None], z[:, None, None, :]]
        if trial.cut:
            top, left = corner(side - trial.cut), corner(side - trial.cut)
            rows_in, columns_in = ((at >= low) & (at < low + trial.cut) for low in (top, left))
            x = x.masked_fill((rows_in[:, :, None] & columns_in[:, None, :])[:, None], 0.0)
        return x


def train(trial: Trial, spent: float, batches: Batches) -> tuple[torch.nn.Module, int]:
    """Train until the trial's work is spent; returns the network and its steps."""
    images = images_of(trial.dataset)[0]
    device, side, begun, steps = images.device.type, images.shape[2], spent, 0
    torch.manual_seed(trial.seed)
    settings = NETWORKS[trial.network] | ({"whitening_kernel": trial.kernel} if trial.kernel else {})
    model = build_model("airbench", images.shape[1], 10, **settings).to(device, memory_format=torch.channels_last)
    model.whitening.whiten(images[:5000])
    optimizer = Muon(max_lr=trial.max_lr).build(model, trial.batch_size, "bf16")
    torch._dynamo.reset()
    learner = torch.compile(model, dynamic=False) if device == "cuda" else model
    while spent < trial.work * WORK:
        size = trial.low if spent < trial.share * trial.work * WORK else side
        spent += COST[trial.network, size] * trial.batch_size
        batches.progress = progress = min(1.0, (spent - begun) / (trial.work * WORK - begun))
        for group in optimizer.param_groups:
            group["lr"] = group["max_lr"] * max(0.0, 1 - progress / group.get("schedule_fraction", 1.0))
        rows, x, labels = batches.next()
        if size != side:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        with torch.autocast(device, torch.bfloat16):
            logits = learner(x.to(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels, label_smoothing=trial.label_smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        batches.note(rows, logits.detach().float().softmax(1).gather(1, labels[:, None])[:, 0])
        steps += 1
    return model.eval(), steps


def proxy_confidence(trial: Trial) -> tuple[Tensor, float]:
    """The probability that a small network gives each label after trial.proxy epochs, float [N], and the work spent."""
    images, labels, *_ = images_of(trial.dataset)
    cost = COST["16", images.shape[2]]
    small = Trial(trial.dataset, "16", trial.proxy * cost * len(images) / WORK, batch_size=500, flip=trial.flip)
    model, _ = train(small, 0.0, Batches(small))
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
        logits = torch.cat([model(x.to(memory_format=torch.channels_last)) for x in images.split(2000)])
    confidence = logits.float().softmax(1).gather(1, labels[:, None])[:, 0]
    return confidence, small.work * WORK + cost * len(images) / 3


def measure(trial: Trial) -> dict[str, object]:
    """Train and score."""
    started, spent = time.perf_counter(), 0.0
    images, _, held, held_labels = images_of(trial.dataset)
    device, batches = images.device.type, Batches(trial)
    if trial.proxy:
        confidence, spent = proxy_confidence(trial)
        batches.prune(confidence)
    model, steps = train(trial, spent, batches)
    views, plain, augmented = Views(bool(trial.flip) and trial.flip_until == 1, 1, neighbors=True), 0, 0
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        for x, labels in zip(held.split(2000), held_labels.split(2000), strict=True):
            alone, together = views.logits(model, x.to(memory_format=torch.channels_last))
            plain += int((alone.argmax(1) == labels).sum())
            augmented += int((together.argmax(1) == labels).sum())
    return {
        **trial.about,
        "accuracy_holdout": plain / HELD,
        "accuracy_holdout_tta": augmented / HELD,
        "steps": steps,
        "epochs": round(steps * trial.batch_size / len(images), 2),
        "seconds": round(time.perf_counter() - started, 1),
        **provenance(),
    }


def table() -> str:
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read(ROWS):
        about = tuple(row[key] for key in Trial().about if key != "seed")
        groups.setdefault(about, []).append(row)
    header = ("data set", "work", "network", "changed", "held-out %", "epochs")
    lines = ["# Training shortcuts at equal work", "", *table_head(header)]
    kinds = {name: type(value) for name, value in asdict(Trial()).items()}
    cells = []
    for rows in groups.values():
        trial = Trial(**{name: kind(rows[0][name]) for name, kind in kinds.items()})
        found = [100 * float(row["accuracy_holdout_tta"]) for row in rows]
        shown = f"{mean(found):.2f}" + (f" ({', '.join(f'{each:.2f}' for each in found)})" if len(found) > 1 else "")
        about = [trial.dataset, f"{trial.work:g}", trial.network, trial.settings or "nothing", shown, rows[0]["epochs"]]
        cells.append(((trial.dataset, -trial.work, -mean(found)), about))
    lines += [f"| {' | '.join(about)} |" for _, about in sorted(cells, key=lambda each: each[0])]
    note = (
        "Work: in epochs of airbench94's network on 40,000 images of 32x32, by what they take on two bf16 cores; 20 are"
        " about 1000 s. Held-out training images, 10,000, in views along the diagonal (rows of the H100) or in all"
        " directions (H200, which did most runs with batches of 1000); each seed in brackets. Their standard error is"
        " 0.24 points for CIFAR-10, the same images for all. How it is done: benchmarks/research/equal_work.py."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=7)
    parser.add_argument("--limit", type=float, default=1e6, help="seconds after which to stop")
    parser.add_argument("--dataset", help="only this one")
    given = parser.parse_args()
    started, done = time.monotonic(), read(ROWS)
    left = [trial for trial in trials() if given.dataset in (None, trial.dataset)]
    left = [trial for trial in left if not any(trial.about.items() <= row.items() for row in done)]
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        waiting = pool.imap_unordered(measure, left)
        for _ in left:
            try:
                row = waiting.next(timeout=max(1.0, given.limit - (time.monotonic() - started)))
            except multiprocessing.TimeoutError:
                break
            append(ROWS, row)
            print(*row.values(), flush=True)
        pool.terminate()
    TABLE.write_text(table())


if __name__ == "__main__":
    main()
