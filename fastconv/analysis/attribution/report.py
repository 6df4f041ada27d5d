"""The files of an explanation: figures, tables, maps, TensorBoard events and the page."""

import dataclasses
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from fastconv.analysis.attribution import drawing
from fastconv.analysis.attribution.drawing import Column, Panel, Series
from fastconv.analysis.attribution.experiment import Explanation
from fastconv.analysis.attribution.findings import MEASURES, beats_random, summarise_runs
from fastconv.analysis.attribution.page import findings, write_attribution_page
from fastconv.analysis.attribution.samples import UNKNOWN
from fastconv.analysis.comparison.statistics import summarise
from fastconv.analysis.figures import read_png
from fastconv.analysis.html import Figure, write_csv
from fastconv.config.commands import Explain
from fastconv.config.run_settings import settings_as_yaml
from fastconv.system.files import path_from, unwritable

# Images of a figure: one of each of the first classes.
FIGURE_ROWS = 10
# Measures that have a panel in the figure of measures.
PANELS = ("deletion", "insertion", "infidelity", "sensitivity", "on_object", "half_area", "repeated", "randomised")

# What a caption says of the scale of its heatmaps, by whether each has its own.
SCALES = {
    False: "All heatmaps have the same scale.",
    True: "Each heatmap has its own scale, as most published ones have: a weak map looks as strong as a strong one.",
}


def write_report(explanation: Explanation, config: Explain, folder: Path) -> list[str]:
    """Write a report's files; the folder appears, in the place of an older one, when it is whole.

    Returns lines to print: the findings, and the path of the page. Raises InputError if it cannot be written.
    """
    aside = folder.with_name(f"{folder.name}.{secrets.token_hex(6)}.part")
    try:
        aside.mkdir(parents=True)
        figures = draw(explanation, config.target, aside)
        for name, rows in (("images.csv", images_table(explanation)), ("measures.csv", measures_table(explanation))):
            write_csv(aside / name, list(rows))
        write_maps(explanation, aside / "maps.npz")
        (aside / "explain.yaml").write_text(settings_as_yaml(dataclasses.asdict(config)), encoding="utf-8")
        write_attribution_page(aside / "explain.html", explanation, config, figures)
        with SummaryWriter(str(aside)) as events:
            for figure in figures:
                events.add_image(f"explain/{figure.path.stem}", read_png(figure.path), dataformats="HWC")
        old = folder.with_name(f"{aside.name}.old")
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        if old.is_symlink():
            old.unlink()
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [*findings(explanation), f"{path_from(folder)}/explain.html"]


# -- figures


def effects(explanation: Explanation) -> list[tuple[str, bool]]:
    """Return (method, whether each map has its own scale) of the figures that show two groups of runs side by side.

    These are the first method and every layer of Grad-CAM.
    """
    shown = [name for place, name in enumerate(explanation.titles) if not place or name.startswith("grad_cam")]
    return [(name, own_scale) for name in shown if explanation.second for own_scale in (False, True)]


def effect_file(method: str, *, first: bool, own_scale: bool) -> str:
    """Name the file of such a figure; that of the first method is `effect.png`."""
    return "effect" + (f"-{method}" if not first else "") + ("-own-scale" if own_scale else "") + ".png"


def draw(explanation: Explanation, target: str, folder: Path) -> list[Figure]:
    """Draw the figures of a report, the most important first."""
    samples, classes, titles = explanation.samples, explanation.classes, explanation.titles
    dataset = explanation.first[0].run.config.dataset.name
    rows = one_of_each_class(explanation)
    figures = []
    explained = "the predicted class, with its" if target == "prediction" else "the label, with the prediction and its"

    def columns(group: int, only: str | None = None) -> list[Column]:
        name_of_group, runs = explanation.groups[group]
        probabilities = runs[0].probabilities
        found = []
        for name in titles if only is None else [only]:
            title = titles[name] if only is None else name_of_group
            doubt = "not better than random" if beats_random(runs, name) is False else ""
            found.append(
                Column(title, runs[0].evidence[name], probabilities.argmax(1), probabilities.max(1), doubt=doubt)
            )
        return found

    for name, own_scale in effects(explanation):
        title, path = titles[name], folder / effect_file(name, first=name == next(iter(titles)), own_scale=own_scale)
        both = [*columns(0, name), *columns(1, name)]
        heading = f"{dataset}: where the network looks, by {title}"
        drawing.draw_effect(samples, rows, classes, both, heading, path, own_scale=own_scale)
        scale = "each on its own scale" if own_scale else "all on one scale"
        alt = f"Images of {dataset} beside the heatmaps of {title}, {' and '.join(explanation.names)}, {scale}"
        seeds = f" The first of {len(explanation.first)} pairs of runs is shown." if len(explanation.first) > 1 else ""
        caption = (
            f"One image of each class, drawn by seed; heatmaps of {title} for {explained}"
            f" confidence; a cross marks a wrong prediction.{seeds} {SCALES[own_scale]}"
        )
        figures.append(Figure(path, alt, caption))
    for group, (name, _) in enumerate(explanation.groups):
        path = folder / f"methods-{group + 1}.png"
        heading = f"{dataset}: all methods" + (f", {name}" if explanation.second else "")
        drawing.draw_methods(samples, rows, classes, columns(group), heading, path)
        alt = f"Images of {dataset} under each attribution method, {name}"
        caption = f"All methods, {name}: heatmaps for {explained} confidence."
        figures.append(Figure(path, alt, caption, "images" if explanation.second else "findings"))
    if explanation.first[0].measures and any("deletion" in each for each in explanation.first[0].measures.values()):
        path = folder / "measures.png"
        drawing.draw_measures(measure_panels(explanation), list(titles.values()), path)
        spread = "over the seeds" if len(explanation.first) > 1 else "over the images"
        caption = f"Measures of each method: mean and 95 % interval {spread}. Grey: random heatmaps."
        figures.append(Figure(path, "Dot plots of each measure for each method", caption, "measures"))
    return figures


def one_of_each_class(explanation: Explanation) -> np.ndarray:
    """Choose rows of the samples for a figure: the first image of each class, or the first files."""
    samples = explanation.samples
    measured = samples.measured
    _, first = np.unique(samples.labels[measured], return_index=True)
    rows = measured[np.sort(first)] if (samples.labels[measured] != UNKNOWN).all() else measured
    return rows[:FIGURE_ROWS]


def measure_panels(explanation: Explanation) -> list[Panel]:
    """Return the panels of the figure of measures, each with the measure and its random control of every group."""
    panels = []
    for key in PANELS:
        series = []
        for group, runs in explanation.groups:
            for measure, is_control in ((key, False), (f"{key}_random", True)):
                summaries = [summarise_runs(runs, name, measure) for name in explanation.titles]
                if any(each.n for each in summaries):
                    series.append(Series(group, summaries, is_control))
        if series:
            panels.append(Panel(MEASURES[key].title, series))
    return panels


# -- tables


def images_table(explanation: Explanation) -> Iterator[dict[str, object]]:
    """Yield a row for each image and run: the image, its label and the prediction."""
    samples, classes = explanation.samples, explanation.classes
    for group, runs in explanation.groups:
        for run in runs:
            for row in range(len(samples)):
                label, predicted = int(samples.labels[row]), int(run.probabilities[row].argmax())
                yield {
                    "image": samples.names[row],
                    "kind": samples.kinds[row],
                    "label": "" if label == UNKNOWN else classes[label],
                    "group": group,
                    "run": run.run.name,
                    "seed": run.run.config.seed,
                    "prediction": classes[predicted],
                    "confidence": round(float(run.probabilities[row, predicted]), 5),
                    "explained": classes[run.target[row]],
                    "without_evidence": " ".join(
                        name for name, maps in run.evidence.items() if not (maps[row] > 0).any()
                    ),
                }


def measures_table(explanation: Explanation) -> Iterator[dict[str, object]]:
    """Yield a row for each run, method and measure: mean, standard deviation and number over images."""
    for group, runs in explanation.groups:
        for run in runs:
            for method, found in run.measures.items():
                for measure in (name for name in MEASURES if name in found):
                    summary = summarise(found[measure])
                    yield {
                        "group": group,
                        "run": run.run.name,
                        "seed": run.run.config.seed,
                        "method": method,
                        "measure": measure,
                        "mean": f"{summary.mean:.6g}",
                        "median": f"{np.nanmedian(found[measure]):.6g}" if summary.n else "nan",
                        "sd": f"{summary.sd:.6g}",
                        "n": summary.n,
                    }


def write_maps(explanation: Explanation, path: Path) -> None:
    """Write the images, and of every run `run|against/<index>/<method>`: signed attributions float32 [N, H, W]."""
    arrays: dict[str, np.ndarray] = {"images": explanation.samples.images, "labels": explanation.samples.labels}
    for key, runs in (("run", explanation.first), ("against", explanation.second)):
        for index, run in enumerate(runs):
            for method, maps in run.maps.items():
                arrays[f"{key}/{index}/{method}"] = maps.astype(np.float32)
            arrays[f"{key}/{index}/target"] = run.target
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy takes them for its allow_pickle
