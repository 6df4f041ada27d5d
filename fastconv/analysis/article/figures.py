"""Figures of the article's page: accuracy against epochs, and the figures of each data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from fastconv.analysis.article.heatmaps import LAYERS
from fastconv.analysis.article.rows import Row, Setup
from fastconv.analysis.article.tables import WAYS
from fastconv.analysis.attribution.report import SCALES, effect_file
from fastconv.analysis.comparison.figures import draw_learning
from fastconv.analysis.comparison.statistics import summarise
from fastconv.analysis.figures import figure_text, save
from fastconv.analysis.html import Figure, stored_figure

# The method whose figure of a report of heatmaps has the shortest name: the first.
FIRST = next(iter(LAYERS))
AUGMENTED = "augmented.png"
# What is scored for the curves, by `validate.on`.
DOTS = {"test": "; dots: test images, which decide nothing", "holdout": "; dots: held-out images"}
# What augmentation does, by the setting that is its amount.
PARTS = {
    "crop.padding": "padded and cropped",
    "flip.probability": "flipped",
    "color_jitter.brightness": "jittered in colour",
    "color_jitter.contrast": "jittered in colour",
    "cutout.size": "with cutout",
    "extra": "by transforms of your own",
}
EFFECTS = {
    (method, own_scale): effect_file(method, first=method == FIRST, own_scale=own_scale)
    for method in LAYERS
    for own_scale in (True, False)
}


def draw_epochs(rows: Sequence[Row], setup: Setup, path: Path) -> bool:
    """Plot accuracy against epochs, each number a run of its own, with and without augmentation.

    Returns whether there was anything to draw: a data set with runs of two lengths.
    """
    alike = [row for row in rows if row.setup._replace(max_epochs=setup.max_epochs) == setup]
    lengths = {name: sorted({row.max_epochs for row in alike if row.dataset == name})
               for name in dict.fromkeys(row.dataset for row in alike)}  # fmt: skip
    shown = [name for name, epochs in lengths.items() if len(epochs) > 1]
    if not shown:
        return False
    drawing = Drawing(figsize=(4.6 * len(shown), 3.8), layout="constrained")
    for axes, dataset in zip(drawing.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for number, (augmented, way) in enumerate(WAYS.items()):
            points = [(row.max_epochs, 100 * row.accuracy) for row in alike
                      if (row.dataset, row.augmented) == (dataset, augmented)]  # fmt: skip
            ends = sorted({epochs for epochs, _ in points})
            means = [summarise(value for epochs, value in points if epochs == end).mean for end in ends]
            axes.plot(ends, means, "-", color=f"C{number}", label=way)
            axes.plot(*zip(*points, strict=True), ".", color=f"C{number}") if points else None
        axes.set(xscale="log", xlabel="epochs of the whole run", ylabel="test accuracy in %")
        axes.set_title(figure_text(dataset, 40))
        axes.set_xticks(lengths[dataset], [f"{epochs:g}" for epochs in lengths[dataset]])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save(drawing, path)
    return True


def draw_curves(runs: dict[bool, Path], dataset: str, path: Path) -> bool:
    """Draw loss, accuracy and learning rate of two runs' folders, by whether they are augmented."""
    return draw_learning({WAYS[augmented]: folder for augmented, folder in sorted(runs.items())}, dataset, path)


def augmentation(hparams: Mapping[str, Any]) -> str:
    """Say what a run's augmentation does to an image."""
    parts = [text for key, text in PARTS.items() if hparams.get(f"augment.{key}")]
    if (policy := hparams.get("augment.auto", "none")) != "none":
        parts.append(f"by {policy}")
    return ", ".join(dict.fromkeys(parts)) or "augmented"


def figures_of(
    dataset: str, curves: Path, augmented: Path, effects: Path | None, hparams: Mapping[str, Any]
) -> list[Figure]:
    """Return the figures of a data set that are there.

    Args:
        curves: the file of `draw_curves`.
        augmented: the file of the augmented images.
        effects: the folder with the figures of heatmaps, or None.
        hparams: of the run with augmentation whose curves and images are shown.
    """
    dots = DOTS.get(hparams.get("validate.on", "test"), "")
    text = f"Loss and accuracy over the epochs (lines: training images{dots}), and the learning rate."
    wanted = [(curves, f"{dataset}: curves", text)]
    text = f"The first images of the training stream: {augmentation(hparams)}."
    wanted.append((augmented, f"Augmented images of {dataset}", text))
    for (method, own_scale), name in EFFECTS.items() if effects else ():
        scale = "each on its own scale" if own_scale else "all on one scale"
        text = (
            f"One test image of each class under {LAYERS[method]} of the network trained without and with augmentation:"
            f" evidence for the predicted class. A cross marks a wrong prediction. {SCALES[own_scale]}"
        )
        wanted.append((effects / name, f"Heatmaps of {dataset}: {LAYERS[method]}, {scale}", text))  # type: ignore[operator]
    return [figure for each in wanted if (figure := stored_figure(*each))]
