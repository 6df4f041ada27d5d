"""Can a temperature be fitted on training images? Against the one that held-out images ask for.

PYTHONPATH=benchmarks python benchmarks/research/temperature.py [NAME ...]

Trains each of RUNS, most with most images held out, so that small networks see few images often, as large ones do in
long runs; the others are what `best` trains in 30 to 300 s on two cores. Of each it compares four temperatures by their
expected calibration error on the held-out images: fitted on those themselves, by least cross-entropy and so that mean
confidence is accuracy; on training images by their labels; and as `fit_on_training_images` does. A row of
benchmarks/results/temperature.csv per run, and temperature.md. Two hours on two busy cores.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measurements import RESULTS, append, is_measured, provenance, read, table_head
from scipy.optimize import minimize_scalar

from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.analysis.evaluation.metrics import Evaluation
from fastconv.analysis.run_images import images_of
from fastconv.analysis.scoring import batches
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import stream_spec
from fastconv.models.classifier import Classifier
from fastconv.models.temperature import fit_on_training_images, fit_temperature
from fastconv.runs.results import git_commit
from fastconv.training.calibration import calibration_images

ROWS, TABLE = RESULTS / "temperature.csv", RESULTS / "temperature.md"
DATA = Path(os.environ.get("FASTCONV_DATA", "data"))
IMAGES, HELD_OUT = 2000, 8000
COMMON = ("experiment=best", "autotune=[]", "budget.seconds=null", "stream=online", "figures=false", "trainer=cpu",
          "trainer.precision=fp32", "checkpoint.every=null")  # fmt: skip
FAST = "[32,128,128] stride 2"
# Widths and stride of the whitening, share that is held out, epochs, batch size and seed.
RUNS = {
    **{
        f"fashion_mnist, 48,000 images, seed {seed}": ("fashion_mnist", "[16,64,64]", 0.2, 0.5, 125, seed)
        for seed in (0, 1)
    },
    **{f"cifar10, 0.6 epochs, seed {seed}": ("cifar10", FAST, 0.2, 0.6, 125, seed) for seed in (0, 1)},
    "cifar10, 3 epochs": ("cifar10", FAST, 0.2, 3, 512, 0),
    "cifar10, 4 epochs": ("cifar10", "[32,128,128]", 0.2, 4, 512, 0),
    "cifar10, 40,000 images": ("cifar10", "[8,32,32]", 0.2, 2, 512, 0),
    "digits, 4 epochs": ("digits", "[8,32,32]", 0.3, 4, 64, 0),
    "cifar10, 10,000 images": ("cifar10", "[8,32,32]", 0.8, 10, 512, 1),
    "digits, 20 epochs": ("digits", "[8,32,32]", 0.3, 20, 64, 0),
    "fashion_mnist, 6,000 images": ("fashion_mnist", "[8,32,32]", 0.9, 25, 512, 0),
    "cifar10, 5,000 images": ("cifar10", "[8,32,32]", 0.9, 30, 512, 0),
    "cifar10, 2,000 images": ("cifar10", "[16,64,64]", 0.96, 50, 256, 0),
    "fashion_mnist, 1,200 images": ("fashion_mnist", "[16,64,64]", 0.98, 60, 256, 0),
}


def train(name: str, outputs: str) -> Path:
    """Train one of RUNS, and return its folder."""
    dataset, widths, held_out, epochs, batch_size, seed = RUNS[name]
    command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", *COMMON]
    widths, _, stride = widths.partition(" stride ")
    command += [f"model.widths={widths}", f"model.whitening_stride={stride or 1}"]
    command += [f"dataset.holdout={held_out}", f"schedule.max_epochs={epochs}", f"batch_size={batch_size}"]
    subprocess.run([*command, f"seed={seed}", f"outputs={outputs}"], check=True)
    return next(Path(outputs, dataset).iterdir())


def scorer(run: TrainedRun) -> Callable[[np.ndarray], torch.Tensor]:
    """A function from images uint8 [N, H, W, C] to the network's logits float [N, classes]."""
    network = Classifier(run.model, run.mean, run.std).eval()

    @torch.inference_mode()
    def logits(images: np.ndarray) -> torch.Tensor:
        return torch.cat([network(torch.from_numpy(np.array(images[part]))) for part in batches(len(images), 500)])

    return logits


def least_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature of least cross-entropy (Guo et al. 2017), of logits [N, classes] and labels [N]."""
    found = minimize_scalar(lambda log: float(F.cross_entropy(logits.double() / np.exp(log), labels)), bracket=(-2, 0))
    return float(np.exp(found.x))


def measure(folder: Path) -> dict[str, object]:
    """The temperatures of a run and their calibration errors on its held-out images."""
    run = load_run(folder)
    splits, _ = images_of(run, DATA)
    config, seen, logits = run.config, run.results.steps * run.config.batch_size, scorer(run)
    spec = stream_spec(splits.train, config.augment, config.stream.seed)
    none: ImageData = splits.holdout.take(np.arange(0))
    images, labels = calibration_images(spec, splits.train, none, seen, IMAGES)
    trained, known = logits(images), torch.from_numpy(labels)
    images, labels = calibration_images(spec, splits.train, splits.holdout, seen, HELD_OUT)
    held_out, true = logits(images), torch.from_numpy(labels)
    epochs = seen / len(splits.train)
    temperatures = {
        "unscaled": 1.0,
        "cross_entropy": least_cross_entropy(held_out, true),
        "held_out": fit_temperature(held_out, true),
        "labels": fit_temperature(trained, known),
        "ours": fit_on_training_images(trained, known, config.label_smoothing, epochs),
    }
    found: dict[str, object] = {
        "epochs": round(epochs, 1),
        "accuracy_training": float((trained.argmax(1) == known).float().mean()),
        "accuracy_held_out": float((held_out.argmax(1) == true).float().mean()),
    }
    for name, temperature in temperatures.items():
        probabilities = (held_out.double() / temperature).softmax(1).numpy()
        error = Evaluation(probabilities, labels, run.classes).calibration_error
        found |= {f"temperature_{name}": temperature, f"ece_{name}": error}
    return found


def table() -> str:
    """The rows as a table."""
    header = ["run", "network", "epochs", "accuracy of training images %", "of held-out images %",
              "ECE at temperature 1", "least cross-entropy on held-out images", "fitted on held-out images",
              "on labels of training images", "as runs do"]  # fmt: skip
    lines = ["# Temperatures without held-out images", "", *table_head(header)]
    rows = sorted(read(ROWS), key=lambda row: float(row["epochs"]))
    for row in rows:
        cells = [row["run"], row["network"], row["epochs"]]
        cells += [f"{100 * float(row[f'accuracy_{key}']):.1f}" for key in ("training", "held_out")]
        cells += [f"{float(row['ece_unscaled']):.3f}"]
        keys = ("cross_entropy", "held_out", "labels", "ours")
        cells += [f"{float(row[f'ece_{key}']):.3f} ({float(row[f'temperature_{key}']):.3f})" for key in keys]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"Expected calibration error (15 bins) on at most {HELD_OUT:,} held-out images, temperature in brackets; fitted"
        f" on {IMAGES:,} training images. label_smoothing=0.2, n = 1 a row,"
        f" {rows[-1]['device']}, fp32."
    )
    return "\n".join([*lines, "", note]) + "\n"


def keep(name: str, folder: Path) -> None:
    """Append the row of a run, and write the table."""
    row = {"run": name, "network": RUNS[name][1].replace("[", "").replace("]", "").replace(",", "-"), **measure(folder)}
    append(ROWS, {**row, **provenance(), "git_commit": git_commit()})
    TABLE.write_text(table())


def main(*names: str) -> None:
    for name in names or RUNS:
        if not is_measured(ROWS, {"run": name}):
            with tempfile.TemporaryDirectory() as outputs:
                keep(name, train(name, outputs))
    print(table())


if __name__ == "__main__":
    main(*sys.argv[1:])
