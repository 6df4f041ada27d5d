"""Figures of a run, drawn from its files alone."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from fastconv.data.stream.spec import StreamSpec
from fastconv.runs.results import Results

# Images of the augmented grid: rows x columns.
GRID_ROWS, GRID_COLUMNS = 4, 10
GRID_IMAGES = GRID_ROWS * GRID_COLUMNS
DPI = 110
# Classes whose confusion matrix has its counts written into the cells, and class names that its sides have room for.
FEW_CLASSES, MOST_NAMES = 20, 50
# Most frequent mistakes that are named where the cells are too small for counts.
NAMED_MISTAKES = 25


@dataclass(frozen=True)
class Colours:
    """What the colours of a figure mean: matplotlib's name of the map, text by position in [0, 1], and a label."""

    name: str
    ticks: dict[float, str]
    label: str


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


def draw_range_test(
    learning_rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    marks: dict[str, float],
    title: str,
    path: Path,
) -> None:
    """Loss over learning rate, float [steps] each, with a vertical line at each of the named learning rates."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(title=f"{title}: learning-rate range test", xlabel="learning rate", xscale="log")
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
    """Images by label (rows) and answer (columns), int64 [classes, classes]; of many classes, the mistakes by name."""
    few, names = len(classes) <= FEW_CLASSES, [name if len(name) <= 20 else f"{name[:19]}…" for name in classes]
    side = min(max(0.45 * len(classes), 3.5), 8)
    figure = Figure(figsize=(side + (1.5 if few else 5), side + (0.8 if few else 1.5)), layout="constrained")
    axes, *beside = figure.subplots(1, 1 if few else 2, squeeze=False, width_ratios=[1] if few else [side, 3])[0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A mistake of one in a hundred still has a tenth of the full colour.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    bar = figure.colorbar(picture, ax=axes, label="share of the label's images", shrink=0.8)
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1])
    shown = range(0, len(classes), -(-len(classes) // MOST_NAMES))
    size, upright = 8 if few else 6, 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(shown, [names[place] for place in shown], rotation=upright, fontsize=size)
    axes.set_yticks(shown, [names[place] for place in shown], fontsize=size)
    axes.set(xlabel="answer", ylabel="label")
    axes.set_title(title, fontsize=10)
    for label, answer in np.argwhere(counts) if few else ():
        colour = "white" if shares[label, answer] > 0.35 else "black"
        axes.text(answer, label, counts[label, answer], ha="center", va="center", fontsize=8, color=colour)
    for each in beside:
        each.axis("off")
        each.text(0, 1, _most_frequent_mistakes(counts, names), va="top", fontsize=8)
    save(figure, path)


def _most_frequent_mistakes(counts: np.ndarray, names: list[str]) -> str:
    """A line for each of the most frequent mistakes in counts int64 [classes, classes]."""
    mistakes = counts - np.diag(counts.diagonal())
    most = np.argsort(-mistakes, axis=None, kind="stable")[:NAMED_MISTAKES]
    pairs = zip(*np.unravel_index(most[mistakes.flat[most] > 0], counts.shape), strict=True)
    lines = [f"{counts[each]} of {counts[each[0]].sum()}: {names[each[0]]} as {names[each[1]]}" for each in pairs]
    return "\n".join(["most frequent mistakes: label as answer", "", *lines])


def draw_augmented(images: np.ndarray, labels: np.ndarray, spec: StreamSpec, path: Path) -> None:
    """The first images of the stream, uint8 [B, H, W, C], as the network sees them, with their labels, int64 [B]."""
    tiles = [Tile(image, spec.classes[label]) for image, label in zip(images, labels, strict=True)]
    rows = [tiles[start : start + GRID_COLUMNS] for start in range(0, len(tiles), GRID_COLUMNS)]
    draw_tiles(rows, f"{spec.dataset}: the first images of the training stream", path, inches=1.1)


@dataclass(frozen=True)
class Tile:
    """An image uint8 [H, W, 1 or 3] with the text above it and one across it."""

    image: np.ndarray
    text: str = ""
    across: str = ""


def draw_tiles(
    rows: list[list[Tile | None]], title: str, path: Path, inches: float = 1.4, colours: Colours | None = None
) -> None:
    """Draw rows of square tiles, `inches` wide; None leaves a place empty. `colours` are explained by a bar below.

    All lie in one pair of axes: laying out a pair for each tile would take seconds.
    """
    gap, line = 0.07, 0.115 * 1.4 / inches  # in tiles
    lines = [max(tile.text.count("\n") + 1 if tile and tile.text else 0 for tile in row) for row in rows]
    width = max(map(len, rows)) * (1 + gap)
    height = 2.5 * line + sum(1 + gap + line * count for count in lines) + (0.55 if colours else 0)
    figure = Figure(figsize=(inches * width, inches * height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(width / 2, 1.2 * line, title, ha="center", va="center", fontsize=11)
    top = 2.5 * line
    for row, count in zip(rows, lines, strict=True):
        top += line * count
        for place, tile in enumerate(row):
            if tile is None:
                continue
            left = place * (1 + gap) + gap / 2
            shown = tile.image if tile.image.shape[2] == 3 else tile.image[..., 0]
            extent = (left, left + 1, top + 1, top)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="nearest")
            axes.text(left + 0.5, top - 0.02, tile.text, ha="center", va="bottom", fontsize=7)
            if tile.across:
                box = {"facecolor": "black", "edgecolor": "none"}
                axes.text(left + 0.5, top + 0.5, tile.across, ha="center", va="center", fontsize=8, color="w", bbox=box)
        top += 1 + gap
    axes.set(xlim=(0, width), ylim=(height, 0))
    if colours:
        place = figure.add_axes((0.25, 0.37 / height, 0.5, 0.1 / height))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours.name), cax=place, orientation="horizontal")
        bar.set_ticks(list(colours.ticks), labels=list(colours.ticks.values()), fontsize=7)
        bar.set_label(colours.label, fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI)


def read_png(path: Path) -> np.ndarray:
    """The pixels of a PNG, uint8 [H, W, C]."""
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).astype(np.uint8)
