"""The page of one run, and its numbers as a file."""

import json
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Drawing
from PIL import Image

from fastconv.analysis import figures, run_figures
from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.analysis.evaluation.metrics import TOP, Evaluation
from fastconv.analysis.evaluation.per_class import is_uneven
from fastconv.analysis.html import Figure, data_url, figure_of, lead, table, write_page
from fastconv.analysis.html import escape as _
from fastconv.analysis.predictor import Predictor
from fastconv.data.dataset import ImageData
from fastconv.data.sources.builtin import load
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically

MISTAKES = 24
# Side of a picture on the page, in pixels.
SHOWN = 96


def write_report(folder: Path, data: Path, tta: bool, accelerator: str) -> list[str]:
    """Score a run's network and write `evaluation.json` and `report.html` into its folder; returns lines to print.

    Raises InputError for a run that cannot be read, or a data set that is not the one it was trained on.
    """
    run = load_run(folder)
    _train, test = load(run.config.dataset, data)
    if test.classes != run.classes or test.images.shape[1:] != run.shape:
        raise InputError(f"{folder} has other classes or images than {test.name}: its data set has changed")
    chances = Predictor(run, accelerator).predict(test.images, tta).probabilities
    found = Evaluation(chances, np.asarray(test.labels), test.classes)
    write_atomically(folder / "evaluation.json", json.dumps(found.summary(), indent=1).encode())
    write_page(
        folder / "report.html", title := f"{run.config.dataset.name}: {run.name}", parts(run, found, test, title)
    )
    return [*sentences(run, found, test), f"{folder / 'report.html'}"]


def sentences(run: TrainedRun, found: Evaluation, test: ImageData) -> list[str]:
    """The answer, in words."""
    low, high = (f"{bound:.2%}" for bound in found.interval)
    lines = [f"Right for {found.accuracy:.2%} of {len(test):,} test images (95 % interval {low} to {high})."]
    if len(found.classes) > TOP:
        lines[0] += f" The label is among the {TOP} likeliest classes for {found.top():.2%}."
    counts = found.confusion.sum(1)
    if is_uneven(counts):
        even = f"balanced accuracy {found.balanced_accuracy:.2%}, macro F1 {found.macro_f1:.3f}"
        lines.append(f"The classes have {counts.min():,} to {counts.max():,} images: {even}.")
    sure, error = float(found.probabilities.max(1).mean()), found.calibration_error
    lines.append(f"It is {sure:.1%} sure on average and {found.accuracy:.1%} right: calibration error {error:.3f}.")
    if run.results and run.results.seconds_counted is not None:
        limit = f" of {run.results.budget_seconds:g} s" if run.results.budget_seconds else ""
        lines.append(f"It took {run.results.seconds_counted:.1f} s{limit} on {run.results.device}.")
    if test.note:
        lines.append(f"{test.note}.")
    return lines


def parts(run: TrainedRun, found: Evaluation, test: ImageData, title: str) -> list[str]:
    """The page."""
    pieces = [f"<h1>{_(title)}</h1>", lead(sentences(run, found, test))]
    if (run.folder / "curves.png").exists():
        curves = Figure(
            run.folder / "curves.png", "Loss and accuracy by epoch", "Loss and accuracy during training.", ""
        )
        pieces.append(figure_of(curves))
    with tempfile.TemporaryDirectory() as aside:
        confusion, reliability = Path(aside, "confusion.png"), Path(aside, "reliability.png")
        run_figures.draw_confusion(found.confusion, found.classes, "Test images by class and answer", confusion)
        draw_reliability(found, reliability)
        pieces += [
            "<h2>Class by class</h2>",
            classes(found),
            figure_of(Figure(confusion, "Confusion matrix", "Test images by their class and by the answer.", "")),
            "<h2>How sure, how right</h2>",
            figure_of(
                Figure(
                    reliability,
                    "Share of right answers by how sure the network is",
                    "A network that is as sure as it is right lies on the diagonal. Below it, it is too sure; above it,"
                    " it knows more than it says. The bars are the images.",
                    "",
                )
            ),
        ]
    pieces += ["<h2>The surest mistakes</h2>", mistakes(found, test), "<h2>Use</h2>", use(run), "<h2>Settings</h2>"]
    overrides = " ".join(run.results.overrides) if run.results else ""
    pieces.append(f"<p><code>python -m fastconv.train {_(overrides)}</code></p>")
    return pieces


def classes(found: Evaluation) -> str:
    """A table of the classes."""
    rows = []
    for name, row in zip(found.classes, found.per_class, strict=True):
        shares = ["-" if np.isnan(row[key]) else f"{100 * row[key]:.1f}" for key in ("recall", "precision", "f1")]
        rows.append([_(name), f"{row['images']:,}", *shares])
    return table(["class", "images", "found %", "right when said %", "F1 %"], rows, sortable=True)


def mistakes(found: Evaluation, test: ImageData) -> str:
    """Pictures of the wrong answers that the network is surest of."""
    rows = found.mistakes(MISTAKES)
    if not len(rows):
        return "<p>There are none.</p>"
    cells = []
    for row in rows:
        image = Image.fromarray(np.squeeze(test.images[row])).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
        said, label = found.classes[found.said[row]], found.classes[found.labels[row]]
        text = f"{said}, {found.probabilities[row].max():.0%} sure; labelled {label}"
        cells.append(
            f'<figure style="display:inline-block;width:{SHOWN + 40}px;margin:4px;vertical-align:top">'
            f'<img src="{data_url(image)}" width="{SHOWN}" height="{SHOWN}" alt="test image {row}">'
            f"<figcaption>{_(text)}</figcaption></figure>"
        )
    return "<div>" + "".join(cells) + "</div>"


def use(run: TrainedRun) -> str:
    """How to put the network to work."""
    folder = _(run.folder)
    python = f'import fastconv\n\npredictor = fastconv.load("{folder}")\npredictor.predict(["image.png"]).top(3)'
    shell = f"python -m fastconv.predict run={folder} images=photos out=predictions.csv"
    return f"<pre><code>{shell}</code></pre><pre><code>{python}</code></pre>"


def draw_reliability(found: Evaluation, path: Path) -> None:
    """Share of right answers by how sure the network is, and how many images there are."""
    drawing = Drawing(figsize=(5, 4), layout="constrained")
    axes = drawing.subplots()
    sure, right = ([each[key] for each in found.reliability] for key in ("sure", "right"))
    count = np.array([each["images"] for each in found.reliability])
    axes.bar(sure, count / count.sum(), width=0.05, color="0.85", label="share of images")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    axes.plot(sure, right, marker="o", label="right")
    axes.set(xlabel="probability of the answer", ylabel="share", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    figures.save(drawing, path)
