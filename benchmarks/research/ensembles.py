"""Two networks of half the epochs against one; many views against few, of all images and of the uncertain ones.

python benchmarks/members.py [cifar10] [fashion_mnist] [epochs=9] [seeds=0,1] [network=64]

Trains a network for each seed on all but 10,000 training images, those of `shortcuts.py`, with its own order of the
images, and scores each alone and all together, by the mean of their logits, on those held out. The logits of each are
kept in outputs/members, so that a second call goes on. Appends to benchmarks/results/members.csv and makes members.md.
Nine epochs of airbench94's network take a core of two with bf16 13 minutes; seeds are trained side by side.
"""

import multiprocessing
import os
import sys
import time
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from measurements import RESULTS, append, describe_device, describe_versions, read
from shortcuts import NETWORKS, Batches, Trial, images_of
from torch import Tensor

from fastconv.budget.autotune.candidates import SURE
from fastconv.models import build_model
from fastconv.models.tta import Views
from fastconv.optim import Muon

ROWS, TABLE = RESULTS / "members.csv", RESULTS / "members.md"
KEPT = Path("outputs", "members")
BATCH, PART, SMOOTHING = 1000, 500, 0.2
# As experiment=best does it.
BELOW = SURE * (1 - SMOOTHING + SMOOTHING / 10)


def logits_of(dataset: str, network: str, epochs: float, seed: int) -> Path:
    """Train and keep logits float [views, images, classes] of the held-out images; returns where."""
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
            group["lr"] = group["max_lr"] * max(0.0, 1 - progress / group.get("until", 1.0))
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
    """Accuracies in per cent, and how often an image is scored where only uncertain ones get all views."""
    flip = len(logits) == 18
    around = logits.mean(0)
    # Of a side's nine views, the image first, those along the diagonal are the second and the last.
    sides = logits.unflatten(0, (-1, 9))
    diagonal = (0.5 * sides[:, 0] + 0.25 * sides[:, 1] + 0.25 * sides[:, 8]).mean(0)
    views = Views(flip, 1, True, BELOW)
    uncertain = views.uncertain(logits[0])

    def accuracy(answers: Tensor) -> float:
        return round(100 * float((answers.argmax(1) == labels).float().mean()), 2)

    return {
        "plain": accuracy(logits[0]),
        "diagonal": accuracy(diagonal),
        "around": accuracy(around),
        "around_uncertain": accuracy(torch.where(uncertain[:, None], around, logits[0])),
        "scored": round(views.scored(float(uncertain.float().mean())), 2),
    }


def table() -> str:
    lines = ["# Networks together, and views", "", "| data set | network | epochs | seeds | image alone % |"
             " diagonal % | around % | around, if uncertain % | scored |", "|" + " --- |" * 9]  # fmt: skip
    keys = ("dataset", "network", "epochs", "seeds", "plain", "diagonal", "around", "around_uncertain", "scored")
    rows = sorted(read(ROWS), key=lambda each: (each["dataset"], each["network"], float(each["epochs"])))
    for _, own in groupby(rows, key=lambda each: (each["dataset"], each["network"], each["epochs"])):
        lines += [f"| {' | '.join(row[key] for key in keys)} |" for row in sorted(own, key=lambda row: row["seeds"])]
    note = (
        "Held-out training images, 10,000; 0+1: the mean of the logits of seeds 0 and 1. Diagonal: `tta.shift=1`;"
        f" around: `tta.neighbors=true` too; if uncertain: with `tta.confidence_threshold={BELOW:.3f}`; mirror images each time, but"
        " for mnist. Scored: how often an image was then, on average. How it is done: benchmarks/members.py."
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
            if any(about.items() <= each.items() for each in read(ROWS)):
                continue
            where = {"device": describe_device(), "date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
            append(ROWS, {**about, **scores(own, labels), **where})
        TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
