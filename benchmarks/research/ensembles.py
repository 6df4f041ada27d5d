"""Compares two networks of half the epochs with one, and many views with few, for all or only the uncertain images.

PYTHONPATH=benchmarks python benchmarks/research/ensembles.py [cifar10] [fashion_mnist] [epochs=9] [seeds=0,1]

Trains a network for each seed on all but 10,000 training images, those of `equal_work.py`, with its own order of the
images, and scores each alone and all together, by the mean of their logits, on those held out. The logits of each are
kept in outputs/ensembles, so that a second call goes on. Appends to benchmarks/results/ensembles.csv and makes
ensembles.md of it. `network=64` names one of its networks. Nine epochs of airbench94's network take one of two bf16
cores 13 minutes; seeds are trained side by side.
"""

import multiprocessing
import os
import sys
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from equal_work import NETWORKS, Batches, Trial, images_of
from measurements import RESULTS, append, is_measured, provenance, read, table_head
from torch import Tensor

from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.models import build_model
from fastconv.models.tta import Views
from fastconv.optim import Muon

ROWS, TABLE = RESULTS / "ensembles.csv", RESULTS / "ensembles.md"
KEPT = Path("outputs", "ensembles")
BATCH, PART, SMOOTHING = 1000, 500, 0.2
# The threshold of experiment=best.
THRESHOLD = AUTOTUNE.confidence_threshold * (1 - SMOOTHING + SMOOTHING / 10)


def logits_of(dataset: str, network: str, epochs: float, seed: int) -> Path:
    """Train, and save the logits of the held-out images, float [views, images, classes]; returns the file."""
    path = KEPT / f"{dataset}-{network}-{epochs:g}-{seed}.pt"
    if path.exists():
        return path
    torch.set_num_threads(1)
    flip = int(dataset != "mnist")
    batches = Batches(Trial(dataset=dataset, network=network, batch_size=BATCH, seed=seed, flip=flip))
    images, _, held, _ = images_of(dataset)
    torch.manual_seed(seed)
    model = build_model("airbench", images.shape[1], 10, **NETWORKS[network])
    model = model.to(images.device, memory_format=torch.channels_last)
    model.whitening.whiten(images[:5000])
    optimizer, steps = Muon().build(model, BATCH, "bf16"), int(epochs * len(images) / BATCH)
    autocast = torch.autocast(images.device.type, torch.bfloat16)
    for step in range(steps):
        progress = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = group["max_lr"] * max(0.0, 1 - progress / group.get("schedule_fraction", 1.0))
        _, x, labels = batches.next()
        for part, own in zip(x.split(PART), labels.split(PART), strict=True):
            with autocast:
                logits = model(part.to(memory_format=torch.channels_last))
            (F.cross_entropy(logits.float(), own, label_smoothing=SMOOTHING) * len(own) / BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    found = []
    with torch.no_grad(), autocast:
        for part in held.split(PART):
            views = [view.to(memory_format=torch.channels_last) for _, view in Views(bool(flip), 1, True).of(part)]
            found.append(torch.stack([model(view).float() for view in views]).cpu())
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.save(torch.cat(found, 1), path)
    return path


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracies in per cent, and views per image if only uncertain images get all of them."""
    flip = len(logits) == 18
    around = logits.mean(0)
    # Of a side's nine views, the image first, those along the diagonal are the second and the last.
    sides = logits.unflatten(0, (-1, 9))
    diagonal = (0.5 * sides[:, 0] + 0.25 * sides[:, 1] + 0.25 * sides[:, 8]).mean(0)
    views = Views(flip, 1, True, THRESHOLD)
    uncertain = views.uncertain(logits[0])

    def accuracy(logits: Tensor) -> float:
        return round(100 * float((logits.argmax(1) == labels).float().mean()), 2)

    return {
        "plain": accuracy(logits[0]),
        "diagonal": accuracy(diagonal),
        "around": accuracy(around),
        "around_uncertain": accuracy(torch.where(uncertain[:, None], around, logits[0])),
        "scored": round(views.scored(float(uncertain.float().mean())), 2),
    }


def table() -> str:
    header = ["data set", "network", "epochs", "seeds", "image alone %", "diagonal %", "all directions %",
              "all directions, if uncertain %", "scored"]  # fmt: skip
    lines = ["# Ensembles and test-time views", "", *table_head(header)]
    keys = ("dataset", "network", "epochs", "seeds", "plain", "diagonal", "around", "around_uncertain", "scored")
    rows = sorted(read(ROWS), key=lambda each: (each["dataset"], each["network"], float(each["epochs"])))
    for _, own in groupby(rows, key=lambda each: (each["dataset"], each["network"], each["epochs"])):
        lines += [f"| {' | '.join(row[key] for key in keys)} |" for row in sorted(own, key=lambda row: row["seeds"])]
    note = (
        "Held-out training images, 10,000; 0+1: the mean of the logits of seeds 0 and 1. Diagonal: `tta.shift=1`;"
        f" all directions: `tta.neighbors=true` too; if uncertain: with `tta.confidence_threshold={THRESHOLD:.3f}`;"
        " mirror images each time, but for mnist. Scored: how often an image was then, on average. How it is done:"
        " benchmarks/research/ensembles.py."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main(*arguments: str) -> None:
    options = dict(each.split("=") for each in arguments if "=" in each)
    network, epochs = options.get("network", "64"), float(options.get("epochs", 9))
    seeds = [int(seed) for seed in options.get("seeds", "0,1").split(",")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for dataset in [each for each in arguments if "=" not in each] or ["cifar10", "fashion_mnist"]:
        with multiprocessing.get_context("spawn").Pool(len(seeds)) as pool:
            found = pool.starmap(logits_of, [(dataset, network, epochs, seed) for seed in seeds])
        logits = {str(seed): torch.load(path) for seed, path in zip(seeds, found, strict=True)}
        logits["+".join(logits)] = torch.stack(list(logits.values())).mean(0)
        labels = images_of(dataset)[3].cpu()
        for name, own in logits.items():
            about = {"dataset": dataset, "network": network, "epochs": f"{epochs:g}", "seeds": name}
            if is_measured(ROWS, about):
                continue
            append(ROWS, {**about, **scores(own, labels), **provenance()})
        TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
