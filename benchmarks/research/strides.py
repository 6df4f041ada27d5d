"""Compares networks whose whitened patches are pixels apart with those without: the data behind the fast sizes.

PYTHONPATH=benchmarks python benchmarks/research/strides.py [cifar10] [fashion_mnist] [cifar10/10]

Trains on all but 10,000 training images, as many of them as a cell says, with the batch size that `experiment=best`
takes for so many, and scores the 10,000 in views along the diagonal. `cifar10/10` has 100 classes, ten clusters of each
class. Appends to benchmarks/results/strides.csv and makes strides.md of it; runs that have a row are skipped.
Accuracies do not depend on the machine, whose seconds are not kept. About half an hour on two AVX2 cores.
"""

import functools
import json
import sys
import time

import torch
import torch.nn.functional as F
from equal_work import HELD, Batches, Trial, images_of
from measurements import RESULTS, append, is_measured, provenance, read, table_head

from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.kernels.winograd import obstacle, use_winograd
from fastconv.models import build_model
from fastconv.models.resizing import small_side
from fastconv.models.tta import Views
from fastconv.optim import Muon

ROWS, TABLE = RESULTS / "strides.csv", RESULTS / "strides.md"
IMAGES = (12_000, 33_000, 90_000, 240_000)
# Images at once on a CPU.
MICRO = 500


def networks(dataset: str) -> dict[str, dict]:
    """The fast sizes, and the sizes that they are compared with: one, for many classes three."""
    found = {
        "32-128-128 stride 2": {"widths": [32, 128, 128], "whitening_stride": 2},
        "16-64-64 stride 2": {"widths": [16, 64, 64], "whitening_stride": 2},
        "16-64-64": {"widths": [16, 64, 64]},
    }
    larger = {"32-128-128": {"widths": [32, 128, 128]}, "64-256-256": {"widths": [64, 256, 256]}}
    return found | larger if "/" in dataset else found


def measure(
    dataset: str, settings: dict, images: int, seed: int = 0, small: float = 0.0, precision: str = "fp32"
) -> dict[str, object]:
    """Train and score; returns the row, without what identifies it.

    Args:
        small: share of the images, the first ones, that are made smaller.
        precision: `bf16` or `fp32`.
    """
    cast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
    flip = dataset.startswith("cifar10")
    batch_size = next(size for size, steps in AUTOTUNE.steps_for_batch_size.items() if size * steps <= images)
    pixels, labels, held, held_labels = images_of(dataset)
    batches = Batches(Trial(dataset=dataset, batch_size=batch_size, seed=seed, flip=int(flip)))
    torch.manual_seed(seed)
    model = build_model("airbench", pixels.shape[1], int(labels.max()) + 1, **settings)
    model = model.to(memory_format=torch.channels_last)
    model.whitening.whiten(pixels[:2000])
    optimizer = Muon().build(model, batch_size, "fp32")
    steps, seconds = images // batch_size, 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            fraction = group.get("schedule_fraction", 1.0)
            group["lr"] = group["max_lr"] * max(0.0, 1 - step / steps / fraction)
            for parameter in group["params"] if step / steps > fraction else ():
                parameter.requires_grad_(False)
        _, x, labels = batches.next()
        started = time.perf_counter()
        if step < small * steps:
            x = F.interpolate(x, small_side(x.shape[2]), mode="bilinear", antialias=True)
        for part, of_part in zip(x.split(MICRO), labels.split(MICRO), strict=True):
            with cast():
                logits = model(part.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), of_part, label_smoothing=0.2)
            (loss * len(part) / batch_size).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.perf_counter() - started
    model.eval()
    views, plain, augmented = Views(flip, 1), 0, 0
    with torch.no_grad(), cast():
        for x, labels in zip(held.split(MICRO), held_labels.split(MICRO), strict=True):
            alone, together = views.logits(model, x.contiguous(memory_format=torch.channels_last))
            plain += int((alone.argmax(1) == labels).sum())
            augmented += int((together.argmax(1) == labels).sum())
    return {
        "batch_size": batch_size,
        "steps": steps,
        "seconds": round(seconds, 1),
        "accuracy_holdout": plain / HELD,
        "accuracy_holdout_tta": augmented / HELD,
        **provenance(),
    }


def table() -> str:
    rows = read(ROWS)
    lines = ["# Whitened patches that are two pixels apart", ""]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        names = list(dict.fromkeys(row["network"] for row in own))
        lines += [f"## {dataset}", "", *table_head(["images seen", *names])]
        for images in sorted({int(row["images"]) for row in own}):
            cells = [
                ", ".join(
                    f"{100 * float(row['accuracy_holdout_tta']):.2f}"
                    for row in own
                    if (row["network"], int(row["images"])) == (name, images)
                )
                for name in names
            ]
            lines.append(f"| {images:,} | {' | '.join(cells)} |")
        lines.append("")
    devices = ", ".join(sorted({row["device"] for row in rows}))
    note = (
        f"{devices}, fp32. Accuracy in %, in views along the diagonal, on 10,000 held-out training images (standard"
        " error 0.3 to 0.5 points). n = 1 a number."
    )
    return "\n".join([*lines, note]) + "\n"


def main(*datasets: str) -> None:
    if obstacle() is None:
        use_winograd(True)
    for dataset in datasets or ("cifar10", "fashion_mnist"):
        for images in IMAGES:
            for network, settings in networks(dataset).items():
                about = {
                    "dataset": dataset,
                    "network": network,
                    "settings": json.dumps(settings),
                    "images": str(images),
                }
                about["seed"] = "0"
                if not is_measured(ROWS, about):
                    row = measure(dataset, settings, images)
                    append(ROWS, {**about, **{key: row[key] for key in row if key != "seconds"}})
                    TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
