"""Figures of a run, drawn from its files alone."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastconv.data.stream import StreamSpec
from fastconv.results import Results

# Images of the augmented grid: rows x columns.
GRID_ROWS, GRID_COLUMNS = 4, 10
GRID_IMAGES = GRID_ROWS * GRID_COLUMNS
DPI = 110


def draw_run(folder: Path, results: Results, title: str) -> None:
    """Draw `schedule.png` and `curves.png` from a run's `metrics.csv` and its results."""
    metrics = read_metrics(folder / "metrics.csv")
    draw_schedule(metrics, title, folder / "schedule.png")
    draw_curves(metrics, results, title, folder / "curves.png")


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a `metrics.csv`, float64 [rows], NaN where a row has no value."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def column(metrics: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of the rows in which a metric has a value."""
    values = metrics.get(name, np.array([]))
    there = ~np.isnan(values)
    epochs = metrics["train/epoch"][there] if len(values) else values
    return epochs, values[there]


def draw_schedule(metrics: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Learning rate and momentum as they were during the run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(title=f"{title}: schedule as run", xlabel="epoch", ylabel="learning rate")
    axes.plot(*column(metrics, "schedule/lr"), color="C0", label="learning rate")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(*column(metrics, "schedule/momentum"), color="C1", linestyle="--", label="momentum")
    right.set_ylabel("momentum")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, path)


def draw_curves(metrics: dict[str, np.ndarray], results: Results, title: str, path: Path) -> None:
    """Loss and accuracy over the epochs, of the augmented training and the validation images, and the test score."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for axes, name, scale in ((left, "loss", 1), (right, "accuracy", 100)):
        for split, marker, label in (("train", "", "training (augmented)"), ("validate", "o", "validation")):
            epochs, values = column(metrics, f"{split}/{name}")
            if len(values):
                axes.plot(epochs, scale * values, marker=marker, label=label)
        score = getattr(results, name)
        if score is not None:
            label = f"test {score:.2%}" if name == "accuracy" else f"test {score:.3f}"
            axes.plot(results.epochs, scale * score, marker="*", markersize=12, linestyle="", color="C3", label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy in %" if name == "accuracy" else "cross-entropy")
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def draw_augmented(images: np.ndarray, labels: np.ndarray, spec: StreamSpec, path: Path) -> None:
    """The first images of the stream, uint8 [B, H, W, C], as the network sees them, with their labels, int64 [B]."""
    figure = Figure(figsize=(GRID_COLUMNS * 1.1, GRID_ROWS * 1.3), layout="constrained")
    figure.suptitle(f"{spec.dataset}: the first images of the training stream")
    for axes, image, label in zip(figure.subplots(GRID_ROWS, GRID_COLUMNS).flat, images, labels, strict=False):
        axes.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        axes.set_title(spec.classes[label], fontsize=8)
        axes.axis("off")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI)


def read_png(path: Path) -> np.ndarray:
    """The pixels of a PNG, uint8 [H, W, C]."""
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).astype(np.uint8)
