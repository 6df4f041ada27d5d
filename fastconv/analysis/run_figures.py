"""Figures of a run, drawn from its files: curves, schedule, confusion matrix, augmented images."""

import csv
import io
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from fastconv.analysis.figures import Tile, draw_tiles, figure_text, save
from fastconv.data.stream.spec import StreamSpec
from fastconv.runs.hparams import is_augmented
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.files import read_file
from fastconv.system.names import printable

# Images of the augmented grid: rows x columns.
GRID_ROWS, GRID_COLUMNS = 4, 10
GRID_IMAGES = GRID_ROWS * GRID_COLUMNS
# Up to FEW_CLASSES, a confusion matrix has its counts written into the cells; its axes have room for MAX_NAMES names.
FEW_CLASSES, MAX_NAMES = 20, 50
# Cells of a side that are drawn of a confusion matrix: it has no more pixels.
MAX_CELLS = 1000
# Most frequent errors that are named where the cells are too small for counts.
NAMED_ERRORS = 25
# Said of the loss of a run that smooths labels. Even a perfect network has a training loss above zero there.
OTHER_SCALE = "training loss is of smoothed labels, on another scale than the others"
# Bytes of the longest metrics.csv that is read, and the largest value that is drawn.
MOST_BYTES, MOST = 16 * 2**20, 1e15


def draw_run(folder: Path, results: Results, title: str) -> None:
    """Draw `schedule.png` and `curves.png` from a run's `metrics.csv` and its results."""
    metrics = read_metrics(folder / "metrics.csv")
    draw_schedule(metrics, title, folder / "schedule.png")
    draw_curves(metrics, results, title, folder / "curves.png")


def read_metrics(path: Path, wanted: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Read the columns of a `metrics.csv`: float64 [rows] by name, NaN where a row has no value that can be drawn.

    Args:
        wanted: names of the columns to read, as far as they are there; None for all.

    Raises ValueError for a file that cannot be read or is not a table of numbers.
    """
    try:
        text = read_file(path, MOST_BYTES).decode()
        names, *rows = csv.reader(io.StringIO(text, newline=""))
        if rows and len(rows[-1]) < len(names):  # another process is writing it
            rows.pop()
        if any(len(row) != len(names) for row in rows) or "train/epoch" not in names:
            raise ValueError(f"{path} is no table of metrics")
        kept = [at for at, name in enumerate(names) if wanted is None or name in wanted]
        values = np.array([[float(row[at] or "nan") for at in kept] for row in rows]).reshape(-1, len(kept))
    except (OSError, InputError, csv.Error) as error:
        raise ValueError(str(error)) from error
    values[~(np.abs(values) <= MOST)] = np.nan  # axes have no place for them
    return dict(zip([names[at] for at in kept], values.T, strict=True)) if rows else {}


def column(metrics: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (epochs, values), float64 [n] each, of the rows in which a metric has a value."""
    values = metrics.get(name, np.array([]))
    there = ~np.isnan(values)
    epochs = metrics["train/epoch"][there] if len(values) else values
    return epochs, values[there]


def draw_schedule(metrics: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Plot learning rate and momentum as they were during the run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        title=figure_text(f"{title}: schedule as run", 70), xlabel="epoch", ylabel="learning rate"
    )
    axes.plot(*column(metrics, "schedule/lr"), color="C0", label="learning rate")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(*column(metrics, "schedule/momentum"), color="C1", linestyle="--", label="momentum")
    right.set_ylabel("momentum")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, path)


def draw_curves(metrics: dict[str, np.ndarray], results: Results, title: str, path: Path) -> None:
    """Plot loss and accuracy of training images and validation images by epoch, and the test score."""
    smoothing = label_smoothing(results.hparams)
    augmented = ["augmented"] * is_augmented(results.hparams)
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(figure_text(title))
    left, right = figure.subplots(1, 2)
    for axes, name, scale in ((left, "loss", 1), (right, "accuracy", 100)):
        about = ", ".join([*augmented, *[f"labels smoothed by {smoothing:g}"] * (smoothing > 0 and name == "loss")])
        training = f"training ({about})" if about else "training"
        for split, marker, label in (("train", "", training), ("validate", "o", "validation")):
            epochs, values = column(metrics, f"{split}/{name}")
            if len(values):
                axes.plot(epochs, scale * values, marker=marker, label=label)
        score = getattr(results, name)
        if score is not None:
            label = f"test {score:.2%}" if name == "accuracy" else f"test {score:.3f}"
            axes.plot(results.epochs, scale * score, marker="*", markersize=12, linestyle="", color="C3", label=label)
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy in %" if name == "accuracy" else "cross-entropy")
        if name == "loss" and smoothing:
            axes.set_title(OTHER_SCALE, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def label_smoothing(hparams: Mapping[str, Any]) -> float:
    """The share of each label that training spreads over all classes, by the settings of a run; 0 if not known."""
    value = hparams.get("label_smoothing")
    return float(value) if isinstance(value, int | float) else 0.0


def draw_range_test(
    learning_rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    marks: dict[str, float],
    title: str,
    path: Path,
) -> None:
    """Plot loss over learning rate, float [steps] each, with a vertical line at each learning rate of `marks`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        title=figure_text(f"{title}: learning-rate range test", 70), xlabel="learning rate", xscale="log"
    )
    axes.set_ylabel("training loss")
    axes.plot(learning_rates, losses, color="C0", alpha=0.35, label="each batch")
    axes.plot(learning_rates, smoothed, color="C0", label="smoothed")
    axes.set_ylim(0, 1.2 * smoothed.max())  # an exploded loss would flatten all others
    for number, (name, rate) in enumerate(marks.items(), start=1):
        axes.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name}: {rate:.2g}")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_confusion(counts: np.ndarray, classes: tuple[str, ...], title: str, path: Path) -> None:
    """Draw a confusion matrix: counts int64 [classes, classes] of images by label (rows) and prediction (columns).

    Of more than FEW_CLASSES classes, the most frequent errors are listed by name beside it.
    """
    few, names = len(classes) <= FEW_CLASSES, [figure_text(name, 20) for name in classes]
    side = min(max(0.45 * len(classes), 3.5), 8)
    figure = Figure(figsize=(side + (1.5 if few else 5), side + (0.8 if few else 1.5)), layout="constrained")
    axes, *beside = figure.subplots(1, 1 if few else 2, squeeze=False, width_ratios=[1] if few else [side, 3])[0]
    shares = np.divide(counts, np.maximum(counts.sum(axis=1, keepdims=True), 1), dtype=np.float32)
    # Of several cells that share a pixel, the largest is seen.
    begins = range(0, len(classes), -(-len(classes) // MAX_CELLS))
    cells = np.maximum.reduceat(np.maximum.reduceat(shares, begins, axis=0), begins, axis=1)
    # An error of one in a hundred still has a tenth of the full colour.
    edges = (-0.5, len(classes) - 0.5)
    picture = axes.imshow(cells, cmap="Blues", norm=PowerNorm(0.5, 0, 1), extent=(*edges, *edges[::-1]))
    bar = figure.colorbar(picture, ax=axes, label="share of the label's images", shrink=0.8)
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1])
    shown = range(0, len(classes), -(-len(classes) // MAX_NAMES))
    size, upright = 8 if few else 6, 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(shown, [names[place] for place in shown], rotation=upright, fontsize=size)
    axes.set_yticks(shown, [names[place] for place in shown], fontsize=size)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(figure_text(title), fontsize=10)
    for label, predicted in np.argwhere(counts) if few else ():
        colour = "white" if shares[label, predicted] > 0.35 else "black"
        axes.text(predicted, label, counts[label, predicted], ha="center", va="center", fontsize=8, color=colour)
    for each in beside:
        each.axis("off")
        each.text(0, 1, _most_frequent_errors(counts, names), va="top", fontsize=8)
    save(figure, path)


def _most_frequent_errors(counts: np.ndarray, names: list[str]) -> str:
    """List the most frequent errors in counts int64 [classes, classes], one a line."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    places = np.flatnonzero(errors)  # few of the millions that thousands of classes have
    most = places[np.argsort(-errors.flat[places], kind="stable")[:NAMED_ERRORS]]
    pairs = zip(*np.unravel_index(most, counts.shape), strict=True)
    lines = [f"{counts[each]} of {counts[each[0]].sum()}: {names[each[0]]} as {names[each[1]]}" for each in pairs]
    return "\n".join(["most frequent errors: label as prediction", "", *lines])


def draw_augmented(images: np.ndarray, labels: np.ndarray, spec: StreamSpec, path: Path) -> None:
    """Draw the first images of the stream as the network sees them: uint8 [B, H, W, C], with their labels int64 [B]."""
    tiles = [Tile(image, printable(spec.classes[label])) for image, label in zip(images, labels, strict=True)]
    rows = [tiles[start : start + GRID_COLUMNS] for start in range(0, len(tiles), GRID_COLUMNS)]
    draw_tiles(rows, f"{spec.dataset}: the first images of the training stream", path, inches=1.1)
