"""The page of one run, and its metrics as a file."""

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from PIL import Image

from fastconv.analysis import figures, run_figures
from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.analysis.evaluation.metrics import TOP, Evaluation
from fastconv.analysis.evaluation.per_class import is_imbalanced
from fastconv.analysis.html import Figure, Table, data_url, stored_figure, write_page
from fastconv.analysis.predictor import Predictor
from fastconv.analysis.run_images import images_of
from fastconv.config.commands import Evaluate
from fastconv.data.dataset import ImageData
from fastconv.data.image_names import image_names
from fastconv.system.files import write_atomically
from fastconv.system.json_text import as_json
from fastconv.system.wording import counted

# Most confident errors shown on the page, and the side of a picture there, in pixels.
SHOWN_ERRORS, PICTURE_SIDE = 24, 96


def evaluate_run(config: Evaluate) -> tuple[Evaluation, list[str]]:
    """Score a run's network and write `evaluation.json` and `report.html` into its folder; also returns lines to print.

    Raises InputError for a run that cannot be read, or a data set that is not the one it was trained on.
    """
    folder = Path(config.run)
    run = load_run(folder, config.trust).with_images(config.dataset)
    splits, warnings = images_of(run, run.data_folder(config.data))
    test = splits.test
    predictor = Predictor(run, config.accelerator)
    probabilities = predictor.predict(test.images, config.tta).probabilities
    views = predictor.views(config.tta).count
    evaluation = Evaluation(probabilities, np.asarray(test.labels), test.classes, run.temperature)
    rows = evaluation.most_confident_errors(SHOWN_ERRORS)
    names = image_names(run.config.dataset, run.data_folder(config.data), run.config.own_folders(), test, rows)
    errors = confident_errors(evaluation, names)
    found = {**evaluation.summary(), "views": views, "most_confident_errors": errors, "warnings": warnings}
    content = as_json(found, indent=1)
    write_atomically(folder / "evaluation.json", content.encode())
    lines = [*findings(run, evaluation, test, views), *warnings]
    write_run_page(folder / "report.html", run, evaluation, test, lines, errors)
    return evaluation, [*lines, f"{folder / 'report.html'}"]


def findings(run: TrainedRun, evaluation: Evaluation, test: ImageData, views: int) -> list[str]:
    """Say in sentences how accurate and how well calibrated the network is, and how long its training took.

    `views` is the number of views of an image, at most, by test-time augmentation; 1 without.
    """
    low, high = (f"{bound:.2%}" for bound in evaluation.interval)
    how = f" with test-time augmentation (up to {views} views of each)" if views > 1 else ""
    lines = [
        f"Accuracy {evaluation.accuracy:.2%} on {counted(len(test), 'test image')}{how}"
        f" (95 % interval {low} to {high})."
    ]
    if len(evaluation.classes) > TOP:
        lines[0] += f" Top-{TOP} accuracy {evaluation.top_k_accuracy():.2%}."
    lines.append(f"Balanced accuracy {evaluation.balanced_accuracy:.2%}, macro F1 {evaluation.macro_f1:.3f}")
    counts = evaluation.confusion.sum(1)
    if is_imbalanced(counts):
        lines[-1] += f" (the classes have {counts.min():,} to {counted(counts.max(), 'test image')})"
    if run.config.objective != "accuracy":
        lines[-1] += f"; it was trained for {run.config.objective.replace('_', ' ')}"
    lines[-1] += "."
    confidence = float(evaluation.probabilities.max(1).mean())
    lines.append(
        f"Its mean confidence is {confidence:.1%} at {evaluation.accuracy:.1%} accuracy: expected calibration error"
        f" {evaluation.calibration_error:.3f}, the mean distance of the two over 15 bins of confidence."
    )
    if evaluation.temperature is not None:
        lines[-1] += (
            f" Before temperature scaling (its logits are divided by {evaluation.temperature:.3f}) the error was"
            f" {evaluation.unscaled.calibration_error:.3f}."
        )
    if run.results and run.results.seconds_counted is not None:
        limit = f" of {run.results.budget_seconds:g} s" if run.results.budget_seconds else ""
        lines.append(f"It took {run.results.seconds_counted:.1f} s{limit} on {run.results.device}.")
    if run.results and run.results.pretrained:
        lines.append(f"It was not trained from scratch: it began with the weights {run.results.pretrained}.")
    if test.note:
        lines.append(f"{test.note}.")
    return lines


def write_run_page(
    path: Path,
    run: TrainedRun,
    evaluation: Evaluation,
    test: ImageData,
    lines: list[str],
    errors: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page of a run, with `lines` at its top and `errors` as `confident_errors` describes them.

    Raises InputError if it cannot be written.
    """
    curves = run.folder / "curves.png"
    with tempfile.TemporaryDirectory() as aside:
        confusion, reliability = Path(aside, "confusion.png"), Path(aside, "reliability.png")
        run_figures.draw_confusion(
            evaluation.confusion, evaluation.classes, "Test images by label and prediction", confusion
        )
        draw_reliability(evaluation, reliability)
        write_page(
            path,
            "run_report.html",
            title=f"{run.config.dataset.name}: {run.name}",
            findings=lines,
            curves=stored_figure(curves, "Loss and accuracy by epoch", curves_caption(run)),
            classes=class_table(evaluation),
            confusion=Figure(confusion, "Confusion matrix", "Test images by label and prediction."),
            reliability=Figure(
                reliability,
                "Reliability diagram: accuracy by confidence",
                "Accuracy of the predictions by their confidence. A calibrated network lies on the diagonal: below it,"
                " it is overconfident; above it, underconfident. The bars are the share of the images.",
            ),
            errors=error_pictures(errors, test),
            # Quoted, since these lines are there to be copied to a terminal.
            folder=repr(str(run.folder)),
            run=shlex.quote(f"run={run.folder}"),
            overrides=shlex.join(run.results.overrides) if run.results else "",
        )


def curves_caption(run: TrainedRun) -> str:
    """Say what the curves of a run show, and whether their losses can be compared."""
    smoothing = run.config.label_smoothing
    if not smoothing:
        return "Loss and accuracy during training."
    return f"Loss and accuracy during training. The {run_figures.OTHER_SCALE} (label_smoothing={smoothing:g})."


def class_table(evaluation: Evaluation) -> Table:
    """Return a row for each class: number of images, recall, precision and F1."""
    rows = []
    for name, row in zip(evaluation.classes, evaluation.per_class, strict=True):
        scores = ["-" if np.isnan(row[key]) else f"{100 * row[key]:.1f}" for key in ("recall", "precision", "f1")]
        rows.append([name, f"{row['images']:,}", *scores])
    return Table(["class", "images", "recall %", "precision %", "F1 %"], rows, sortable=True)


def confident_errors(evaluation: Evaluation, names: Sequence[str | None]) -> list[dict[str, object]]:
    """Describe the most confident errors: row among the test images (from 0), file if it has a name, label,
    prediction and confidence.

    Args:
        names: of their images, in this order (`image_names`).
    """
    found = []
    for row, name in zip(evaluation.most_confident_errors(SHOWN_ERRORS).tolist(), names, strict=True):
        found.append(
            {
                "row": row,
                "file": name,
                "label": evaluation.classes[evaluation.labels[row]],
                "prediction": evaluation.classes[evaluation.predictions[row]],
                "confidence": float(evaluation.probabilities[row].max()),
            }
        )
    return found


def error_pictures(errors: Sequence[Mapping[str, Any]], test: ImageData) -> list[dict[str, object]]:
    """Return the most confident errors as the page shows them: picture, description, caption and side in pixels."""
    pictures = []
    for error in errors:
        size = (PICTURE_SIDE, PICTURE_SIDE)
        image = Image.fromarray(np.squeeze(test.images[error["row"]])).resize(size, Image.Resampling.NEAREST)
        name = error["file"] or f"test image {error['row']}"
        about = f"{error['prediction']}, confidence {error['confidence']:.0%}; label {error['label']}"
        pictures.append(
            {"source": data_url(image), "alt": name, "caption": f"{name}: {about}", "side": PICTURE_SIDE}
        )  # fmt: skip
    return pictures


def draw_reliability(evaluation: Evaluation, path: Path) -> None:
    """Draw the reliability diagram: accuracy by confidence, also before temperature scaling if the run has a
    temperature, and the share of the images in each bin."""
    drawing = Drawing(figsize=(5, 4), layout="constrained")
    axes = drawing.subplots()
    count = np.array([each["images"] for each in evaluation.reliability])
    confidence = [each["confidence"] for each in evaluation.reliability]
    axes.bar(confidence, count / count.sum(), width=0.05, color="0.85", label="share of images")
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1)
    shown = {"accuracy": evaluation}
    if evaluation.temperature is not None:
        shown = {"before temperature scaling": evaluation.unscaled, **shown}
    for label, each in shown.items():
        points = [(row["confidence"], row["accuracy"]) for row in each.reliability]
        style = "-o" if each is evaluation else "--."
        axes.plot(*zip(*points, strict=True), style, color="C0" if each is evaluation else "C1", label=label)
    axes.set(xlabel="confidence", ylabel="accuracy, share of images", xlim=(0, 1.02), ylim=(0, 1.02))
    drawing.legend(loc="outside lower center", ncols=3, fontsize=8)  # the points may lie anywhere
    figures.save(drawing, path)
