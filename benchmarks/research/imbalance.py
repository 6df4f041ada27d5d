"""How should a network learn from classes of unequal size, if each class counts the same?

PYTHONPATH=benchmarks python benchmarks/research/imbalance.py [CASE ...]

One class keeps a small share of its training images (CASES); the held-out images keep theirs. WAYS of learning are
compared at equal steps: weights in the loss, sampling, adjusted logits. Balanced accuracy does not depend on the
classes' sizes among the held-out images; macro F1 does, so it is computed as if they were as rare there as in training.
A row of benchmarks/results/imbalance.csv per run that is not there yet, and imbalance.md. About two hours on one core.
"""

import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measurements import RESULTS, append, is_measured, provenance, read, table_head
from torch import Tensor

from fastconv.analysis.evaluation.per_class import balanced_accuracy, macro_f1
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.batches import StreamBatches
from fastconv.data.dataset import ImageData, representative_rows
from fastconv.data.loading import load
from fastconv.data.splits import stratified_split
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.models import build_model
from fastconv.models.classifier import WHITENING_IMAGES, Classifier, whiten
from fastconv.models.configs import Airbench, model_settings
from fastconv.optim import Muon
from fastconv.runs.results import git_commit

ROWS, TABLE = RESULTS / "imbalance.csv", RESULTS / "imbalance.md"
DATA = Path(os.environ.get("FASTCONV_DATA", "data"))
SEEDS, SMOOTHING = (0, 1, 2), 0.2
NOTE = """\
Of Fashion-MNIST one class keeps 1 % of its images: 50 of 45,050, 10,000 held out, 150 steps of 500 images. Of the
digits one keeps 5 %: 4 of about 790, 575 held out, 600 steps of 64; the rare class is 0, 1, 3, 8 or 9, three seeds
each. airbench 8-32-32 with Muon, label_smoothing=0.2, AMD EPYC (AVX2), fp32. Macro F1 and accuracy are of classes as
rare as in training."""
SCORES = ("balanced_accuracy", "macro_f1", "accuracy", "rare_recall")


@dataclass(frozen=True)
class Case:
    """Images of which one class is rare, and the run on them."""

    dataset: str
    rare: int
    share: float
    held_out: float
    steps: int
    batch_size: int
    flip: float = 0.0


CASES = {
    "fashion_mnist, shirts": Case("fashion_mnist", 6, 0.01, 1 / 6, 150, 500, 0.5),
    "fashion_mnist, sneakers": Case("fashion_mnist", 7, 0.01, 1 / 6, 150, 500, 0.5),
    **{f"digits, {rare}": Case("digits", rare, 0.05, 0.4, 600, 64) for rare in range(10)},
}


@dataclass(frozen=True)
class Way:
    """A way to learn: the powers of a class's size by which its images weigh less in the loss, or are drawn less often,
    and the part of the logarithm of the class's share that is added to its logit (Menon et al. 2021, arXiv 2007.07314).
    """

    weight: float = 0.0
    sampling: float = 0.0
    adjustment: float = 0.0


WAYS = {
    "plain": Way(),
    "weights 1/n": Way(weight=1.0),
    "weights 1/sqrt(n)": Way(weight=0.5),
    "sampling 1/n": Way(sampling=1.0),
    "sampling 1/sqrt(n)": Way(sampling=0.5),
    "logit adjustment": Way(adjustment=1.0),
    "sampling 1/n, half the adjustment": Way(sampling=1.0, adjustment=0.5),
    "sampling 1/n, weights 1/sqrt(n)": Way(sampling=1.0, weight=0.5),
    "both 1/sqrt(n)": Way(weight=0.5, sampling=0.5),
}


def images_of(case: Case, seed: int) -> tuple[ImageData, ImageData]:
    """Training images, of which one class is rare, and held-out images."""
    everything, _ = load(case.dataset, DATA)
    kept, held = stratified_split(everything, case.held_out, seed)
    rows = np.random.default_rng(seed).permutation(kept)
    rare = rows[everything.labels[rows] == case.rare]
    left_out = rare[round(case.share * len(rare)) :]
    return everything.take(np.sort(np.setdiff1d(kept, left_out))), everything.take(held)


def loss_of(way: Way, counts: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits float [B, classes] and labels int64 [B]. `counts` int64 [classes] of the training images."""
    prior = torch.from_numpy(counts / counts.sum()).float()
    weights = torch.from_numpy(counts.astype(float) ** -way.weight).float()
    weights /= (prior * weights).sum()  # 1 on average over the training images
    # Smoothed evenly, a rare class would get far more than its share, which the adjustment would add to its logit.
    spread = prior**way.adjustment
    spread /= spread.sum()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        found = F.log_softmax(logits + way.adjustment * prior.log(), 1)
        wanted = (1 - SMOOTHING) * F.one_hot(labels, len(prior)) + SMOOTHING * spread
        return (weights[labels] * -(wanted * found).sum(1)).mean()

    return loss


def train(case: Case, way: Way, seed: int, data: ImageData) -> Classifier:
    """Train the smallest network of `experiment=best` with Muon, the learning rate falling linearly to zero."""
    network, counts = Airbench(widths=[8, 32, 32]), np.bincount(data.labels, minlength=len(data.classes))
    torch.manual_seed(seed)
    model = build_model(network.name, data.images.shape[3], len(data.classes), **model_settings(network))
    policy = Policy(crop=Crop(max(1, data.images.shape[1] // 16), "reflect"), flip=Flip(case.flip, "alternating"))
    spec = stream_spec(data, policy, seed)
    module = Classifier(model.to(memory_format=torch.channels_last), spec.mean, spec.std)
    whiten(model, module.normalise, data.images, representative_rows(data.labels, WHITENING_IMAGES))
    if way.sampling:
        share = counts[data.labels].astype(float) ** -way.sampling
        needed = case.steps * case.batch_size
        data = data.take(np.random.default_rng(seed).choice(len(data), needed, p=share / share.sum()))
        spec = stream_spec(data, policy, seed)
    batches = iter(StreamBatches(OnlineStream(spec, data), case.batch_size, case.batch_size))
    optimizer, loss = Muon().build(module.model, case.batch_size, "fp32"), loss_of(way, counts)
    for step in range(case.steps):
        for group in optimizer.param_groups:
            fraction = group.get("schedule_fraction", 1.0)
            group["lr"] = group["max_lr"] * max(0.0, 1 - step / case.steps / fraction)
        images, labels = (part[0] for part in next(batches))
        loss(module(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module.eval()


def measure(name: str, way: str, seed: int) -> dict[str, object]:
    """Train and score on the held-out images."""
    case = CASES[name]
    data, held_out = images_of(case, seed)
    module = train(case, WAYS[way], seed, data)
    with torch.inference_mode():
        logits = torch.cat([module(torch.from_numpy(images)) for images in np.array_split(held_out.images, 20)])
    if folder := os.environ.get("KEEP_LOGITS"):
        np.savez(Path(folder, f"{name}-{way}-{seed}.npz".replace("/", "_")), logits=logits, labels=held_out.labels,
                 counts=np.bincount(data.labels, minlength=len(data.classes)))  # fmt: skip
    classes = len(data.classes)
    confusion = np.bincount(held_out.labels * classes + logits.argmax(1).numpy(), minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    as_trained = confusion / confusion.sum(1, keepdims=True) * np.bincount(data.labels, minlength=classes)[:, None]
    return {
        "case": name,
        "way": way,
        "seed": seed,
        "training_images": len(data),
        "rare_images": int((data.labels == case.rare).sum()),
        "held_out": len(held_out),
        "steps": case.steps,
        "batch_size": case.batch_size,
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(as_trained),
        "accuracy": float(np.diag(as_trained).sum() / as_trained.sum()),
        "rare_recall": float(confusion[case.rare, case.rare] / confusion[case.rare].sum()),
    }


def table() -> str:
    """The rows as a table: means over the seeds, and each of them; over several rare digits, mean and median."""
    titles = ("balanced accuracy", "macro F1", "accuracy", "recall of the rare class")
    header = ["images", "way", "n", *(f"{title} %" for title in titles)]
    lines = ["# Learning with a rare class", "", *table_head(header)]
    rows = read(ROWS)
    for case in dict.fromkeys(row["case"].rstrip("0123456789, ") for row in rows):
        for way in dict.fromkeys(row["way"] for row in rows):
            ours = [row for row in rows if row["way"] == way and row["case"].startswith(case)]
            if not ours:
                continue
            cells = [case, way, str(len(ours))]
            for key in SCORES:
                values = [100 * float(row[key]) for row in ours]
                each = ", ".join(f"{value:.2f}" for value in values)
                each = each if len(values) <= len(SEEDS) else f"median {np.median(values):.2f}"
                cells.append(f"{np.mean(values):.2f} ({each})")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main(*names: str) -> None:
    for name, seed, way in itertools.product(names or CASES, SEEDS, WAYS):
        if is_measured(ROWS, {"case": name, "seed": str(seed), "way": way}):
            continue
        row = measure(name, way, seed)
        append(ROWS, {**row, **provenance(), "git_commit": git_commit()})
        TABLE.write_text(table())
        print(name, seed, way, *(f"{key}={row[key]:.4f}" for key in SCORES), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
