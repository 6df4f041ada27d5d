"""Does dataset.resize=auto learn more from wide photographs than crops do, and is padding or squashing better?

PYTHONPATH=benchmarks python benchmarks/research/whole_pictures.py [CASE ...]

A photograph is a part of one of scikit-learn's two, in which a picture of CIFAR-10 stands: away from the middle, so
that half of it at least is outside of the square that a crop keeps, or anywhere (CASES). 30 training images of each
class and 50 test images are made of the training and the test pictures of CIFAR-10. Each run takes the same steps, so
that no result depends on speed. A row of benchmarks/results/whole_pictures.csv per run that is not there yet, and
whole_pictures.md. About ten minutes on one core.
"""

import itertools
import os
import sys
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measurements import RESULTS, append, is_measured, provenance, read, table_head
from PIL import Image
from sklearn.datasets import load_sample_images

import fastconv
from fastconv.data.loading import load
from fastconv.runs.results import git_commit

ROWS, TABLE = RESULTS / "whole_pictures.csv", RESULTS / "whole_pictures.md"
DATA = Path(os.environ.get("FASTCONV_DATA", "data")).absolute()
# Sides in pixels of a photograph's shorter side and of the picture in it; images of each class to train on and to test
# with.
HEIGHT, PICTURE, TRAIN, TEST = 64, 56, 30, 50
SEEDS, WAYS, EPOCHS = (0, 1, 2), ("crop", "auto", "squash"), 20
SETTINGS = ("model.widths=[8,32,32]", "model.whitening_stride=2", "batch_size=50", "micro_batch_size=50", "trainer=cpu",
            "budget.seconds=null", f"schedule.max_epochs={EPOCHS}", "stream=online", "figures=false")  # fmt: skip
NOTE = f"""\
{10 * TRAIN} photographs to train on and {10 * TEST} to test with, ten classes, scaled to {HEIGHT}x{HEIGHT}; airbench
8-32-32 with a stride of two and Muon, {EPOCHS} epochs in batches of 50 for each run. Seeds change the photographs and
the training. The mean, and each seed."""


@dataclass(frozen=True)
class Case:
    """The width of the photographs in pixels, and the first pixel of the picture at most, from the nearer end."""

    width: int
    most: int


CASES = {
    "3:1, away from the middle": Case(3 * HEIGHT, HEIGHT - PICTURE // 2),
    "3:2, anywhere": Case(3 * HEIGHT // 2, (3 * HEIGHT // 2 - PICTURE) // 2),
}


def photograph(picture: np.ndarray, scene: np.ndarray, case: Case, generator: np.random.Generator) -> Image.Image:
    """A part of a scene, uint8 [H, W, 3], with a picture in it, uint8 [32, 32, 3]."""
    top, left = int(generator.integers(len(scene) - HEIGHT)), int(generator.integers(scene.shape[1] - case.width))
    whole = Image.fromarray(scene[top : top + HEIGHT, left : left + case.width])
    at = int(generator.integers(case.most + 1))
    at = at if generator.random() < 0.5 else case.width - PICTURE - at
    large = Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)
    whole.paste(large, (at, int(generator.integers(HEIGHT - PICTURE + 1))))
    return whole


def make(root: Path, case: Case, seed: int) -> None:
    """Write the photographs of a seed as a folder with splits, each of a folder for each class."""
    generator, scenes = np.random.default_rng(seed), load_sample_images().images
    for name, split, count in zip(("train", "test"), load("cifar10", DATA), (TRAIN, TEST), strict=True):
        for label, kind in enumerate(split.classes):
            folder = root / name / kind
            folder.mkdir(parents=True)
            rows = generator.choice(np.flatnonzero(split.labels == label), count, replace=False)
            for number, row in enumerate(rows):
                scene = scenes[int(generator.integers(len(scenes)))]
                photograph(split.images[row], scene, case, generator).save(folder / f"{number:03}.png")


def measure(name: str, resize: str, seed: int) -> dict[str, object]:
    """Train on the photographs of a seed and score them."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        make(Path("photographs"), CASES[name], seed)
        given = (f"dataset.resize={resize}", f"seed={seed}", "data=data", *SETTINGS)
        # The settings take the place of the limit in seconds.
        results = fastconv.fit("photographs", 1000, *given, experiment="speedrun").run.results
    return {
        "case": name,
        "resize": resize,
        "chosen": results.hparams.get("dataset.resize", "crop"),
        "seed": seed,
        "steps": results.steps,
        "accuracy": results.accuracy,
        "accuracy_tta": results.accuracy_tta,
    }


def table() -> str:
    """The rows as a table: means over the seeds, and each of them."""
    header = ["photographs", "dataset.resize", "n", "% right", "% right with test-time augmentation"]
    lines = ["# Whole pictures", "", *table_head(header)]
    rows = read(ROWS)
    for case, resize in dict.fromkeys((row["case"], row["resize"]) for row in rows):
        ours = [row for row in rows if (row["case"], row["resize"]) == (case, resize)]
        chosen = "" if ours[0]["chosen"] == resize else f" ({ours[0]['chosen']})"
        cells = [case, f"{resize}{chosen}", str(len(ours))]
        for key in ("accuracy", "accuracy_tta"):
            values = [100 * float(row[key]) for row in ours]
            cells.append(f"{np.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main(*names: str) -> None:
    for name, seed, resize in itertools.product(names or CASES, SEEDS, WAYS):
        if is_measured(ROWS, {"case": name, "resize": resize, "seed": str(seed)}):
            continue
        row = measure(name, resize, seed)
        append(ROWS, {**row, **provenance(), "git_commit": git_commit()})
        TABLE.write_text(table())
        print(name, resize, seed, row["accuracy"], row["accuracy_tta"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
