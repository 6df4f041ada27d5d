"""The files of an explanation: figures, tables, maps, TensorBoard events and the page that shows them."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from fastconv.analysis.attribution import drawing
from fastconv.analysis.attribution.drawing import Column
from fastconv.analysis.attribution.experiment import Explanation
from fastconv.analysis.attribution.findings import MEASURES, beats_random, summarise_runs
from fastconv.analysis.attribution.page import answers, page
from fastconv.analysis.attribution.samples import UNKNOWN
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.figures import read_png
from fastconv.analysis.html import Figure, write_csv
from fastconv.config.commands import Explain
from fastconv.system.files import unwritable

# Rows of a figure: one image for each class, or the first of them.
FIGURE_ROWS = 10


def write_report(explanation: Explanation, config: Explain, folder: Path) -> list[str]:
    """Write a report's files; the folder appears, in the place of an older one, when it is whole.

    Returns lines for the reader: the answer, and where the page is. Raises InputError if it cannot be written.
    """
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        aside.mkdir(parents=True)
        figures = draw(explanation, config.target, aside)
        for name, rows in (("images.csv", images_table(explanation)), ("measures.csv", measures_table(explanation))):
            write_csv(aside / name, list(rows))
        write_maps(explanation, aside / "maps.npz")
        (aside / "explain.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
        (aside / "explain.html").write_text(page(explanation, config, figures), encoding="utf-8")
        with SummaryWriter(str(aside)) as events:
            for figure in figures:
                events.add_image(f"explain/{figure.path.stem}", read_png(figure.path), dataformats="HWC")
        old = folder.with_name(f"{aside.name}.old")
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [*answers(explanation), f"{os.path.relpath(folder)}/explain.html"]


# -- figures


def draw(explanation: Explanation, target: str, folder: Path) -> list[Figure]:
    """Draw the figures of a report, most telling first."""
    samples, classes, titles = explanation.samples, explanation.classes, explanation.titles
    dataset = explanation.first[0].run.config.dataset.name
    rows = one_of_each_class(explanation)
    figures = []
    asked = "the class that the network names, with its" if target == "answer" else "the label, with the answer and its"

    def columns(side: int, only: str | None = None) -> list[Column]:
        runs = explanation.sides[side][1]
        chances = runs[0].chances
        found = []
        for name in titles if only is None else [only]:
            title = titles[name] if only is None else explanation.names[side]
            doubt = "\nnot better than random" if beats_random(runs, name) is False else ""
            found.append(Column(title + doubt, runs[0].evidence[name], chances.argmax(1), chances.max(1)))
        return found

    if explanation.second:
        name, title = next(iter(titles.items()))
        path = folder / "effect.png"
        both = [*columns(0, name), *columns(1, name)]
        drawing.draw_effect(samples, rows, classes, both, f"{dataset}: where the network looks, by {title}", path)
        alt = f"Images of {dataset} beside the heatmaps of {title}, {explanation.names[0]} and {explanation.names[1]}"
        seeds = f" The first of {len(explanation.first)} pairs of runs is shown." if len(explanation.first) > 1 else ""
        caption = (
            f"One image of each class, drawn by seed; heatmaps of {title} for {asked}"
            f" confidence; a cross marks a wrong answer.{seeds} All heatmaps have the same scale."
        )
        figures.append(Figure(path, alt, caption, "answer"))
    for side, (name, _) in enumerate(explanation.sides):
        path = folder / f"methods-{side + 1}.png"
        heading = f"{dataset}: all methods" + (f", {name}" if explanation.second else "")
        drawing.draw_methods(samples, rows, classes, columns(side), heading, path)
        alt = f"Images of {dataset} under each attribution method, {name}"
        caption = f"All methods, {name}: heatmaps for {asked} confidence."
        figures.append(Figure(path, alt, caption, "images" if explanation.second else "answer"))
    if explanation.first[0].measures and any("deletion" in each for each in explanation.first[0].measures.values()):
        path = folder / "measures.png"
        drawing.draw_measures(measure_panels(explanation), list(titles.values()), path)
        spread = "over the seeds" if len(explanation.first) > 1 else "over the images"
        caption = f"Measures of each method: mean and 95 % interval {spread}. Grey: random heatmaps."
        figures.append(Figure(path, "Dot plots of each measure for each method", caption, "measures"))
    return figures


def one_of_each_class(explanation: Explanation) -> np.ndarray:
    """Rows of the samples for a figure: the first image of each class, or the first files."""
    samples = explanation.samples
    measured = samples.measured
    _, first = np.unique(samples.labels[measured], return_index=True)
    rows = measured[np.sort(first)] if (samples.labels[measured] != UNKNOWN).all() else measured
    return rows[:FIGURE_ROWS]


def measure_panels(explanation: Explanation) -> list[tuple[str, list[tuple[str, list[Summary], bool]]]]:
    """(title, [(side, a summary for each method, whether it is a control)]) of each panel of the measures' figure."""
    panels = []
    for key in (
        "deletion",
        "insertion",
        "infidelity",
        "sensitivity",
        "on_object",
        "half_area",
        "repeated",
        "randomised",
    ):
        lines = []
        for side, runs in explanation.sides:
            for measure, is_control in ((key, False), (f"{key}_random", True)):
                summaries = [summarise_runs(runs, name, measure) for name in explanation.titles]
                if any(each.n for each in summaries):
                    lines.append((side, summaries, is_control))
        if lines:
            panels.append((MEASURES[key].title, lines))
    return panels


# -- tables


def images_table(explanation: Explanation) -> Iterator[dict]:
    """One row for each image and run: what it is, and what the network says."""
    samples, classes = explanation.samples, explanation.classes
    for side, runs in explanation.sides:
        for run in runs:
            for row in range(len(samples)):
                label, said = int(samples.labels[row]), int(run.chances[row].argmax())
                yield {
                    "image": samples.names[row],
                    "kind": samples.kinds[row],
                    "label": "" if label == UNKNOWN else classes[label],
                    "side": side,
                    "run": run.run.name,
                    "seed": run.run.config.seed,
                    "answer": classes[said],
                    "confidence": round(float(run.chances[row, said]), 5),
                    "explained": classes[run.target[row]],
                    "without_evidence": " ".join(
                        name for name, maps in run.evidence.items() if not (maps[row] > 0).any()
                    ),
                }


def measures_table(explanation: Explanation) -> Iterator[dict]:
    """One row for each run, method and measure: mean, standard deviation and number over images."""
    for side, runs in explanation.sides:
        for run in runs:
            for method, found in run.measures.items():
                for measure in (name for name in MEASURES if name in found):
                    summary = summarise(found[measure])
                    yield {
                        "side": side,
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
    """The images, and of every run `<side>/<index>/<method>`: signed attributions float32 [N, H, W]."""
    arrays = {"images": explanation.samples.images, "labels": explanation.samples.labels}
    for side, runs in enumerate((explanation.first, explanation.second)):
        for index, run in enumerate(runs):
            for method, maps in run.maps.items():
                arrays[f"{('run', 'against')[side]}/{index}/{method}"] = maps.astype(np.float32)
            arrays[f"{('run', 'against')[side]}/{index}/target"] = run.target
    np.savez_compressed(path, **arrays)
