"""The pages of the article's experiment: article.html beside the rows, and the same in short for docs."""

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from article_options import Options

from fastconv.analysis.article.claims import claims_of, findings
from fastconv.analysis.article.figures import AUGMENTED, draw_curves, figures_of
from fastconv.analysis.article.heatmaps import LAYERS
from fastconv.analysis.article.page import Section, longest, sections, write_html
from fastconv.analysis.article.rows import Measure, Row, Setup, setups
from fastconv.runs.results import Results
from fastconv.system.files import write_atomically
from fastconv.system.names import file_name

CURVES = "curves.png"
# The folders of the small files of runs, by whether they are augmented.
NAMES = {True: "augmented", False: "plain"}
INTRODUCTION = """\
# The article's experiment

DavidNet by the article's recipe on its three data sets, with and without augmentation: what holds of the article's
claims, as far as it has been run.
"""
FILES = """\
`make article` trains the runs that this machine lacks and writes this page, and [the same with all measures]({})
as one file. The results are in [rows.csv]({}), the measures of the heatmaps in [measures.csv]({}).
"""


def small_files(results: Path, row: Row) -> Path:
    """The folder of a run's small files, below that of the rows."""
    return figures_folder(results, row.setup, row.dataset).with_name(
        f"{file_name(row.dataset)}-{NAMES[row.augmented]}-{row.seed}"
    )


def figures_folder(results: Path, setup: Setup, dataset: str) -> Path:
    """The folder of the figures of a setup's runs on a data set."""
    text = f"{setup.max_epochs:g} epochs width {setup.width} {setup.device} {setup.precision} {setup.settings}"
    return results / re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") / file_name(dataset)


def write_pages(options: Options, rows: list[Row], measures: list[Measure]) -> None:
    """Write both pages, and print where they are. Raises InputError if one cannot be written."""
    if not rows:
        print("no run is finished yet: there is no page to write")
        return
    results = options.rows
    figures = {
        heading: figures_of(name, at / CURVES, at / AUGMENTED, at, hparams(results, rows, name, setup))
        for heading, (name, setup, at) in shown(results, rows).items()
    }
    command = " ".join(["python benchmarks/article.py", *options.train])
    # The page of docs is of the whole experiment, whatever part of it was asked for.
    notes = [*missing(rows, options if options.results else Options()), *winograd(results, rows)]
    for methods in (None, tuple(LAYERS)):
        parts = sections(rows, measures, figures, results / "epochs.png", {}, command, methods, notes)
        if methods is None:
            write_html(results / "article.html", parts, rows, measures)
        else:
            text = markdown(parts, rows, measures, results, options.page.parent)
            write_atomically(options.page, text.encode())
    print(results / "article.html", options.page)


def shown(results: Path, rows: Sequence[Row]) -> dict[str, tuple[str, Setup, Path]]:
    """By heading: each data set, the setup whose figures are shown, and their folder. It is the first setup that has a
    pair of runs, whose curves are drawn here: the two may be of two calls, or of two machines."""
    every, found = setups(rows), {}
    for name in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == name]
        of_name = [each for each in every if any(row.setup == each for row in own)]
        pairs = {setup: pair for setup in of_name if (pair := first_pair(results, own, setup))}
        setup = next(iter(pairs), of_name[0])
        place = figures_folder(results, setup, name)
        if setup in pairs and not (place / CURVES).exists():
            place.mkdir(parents=True, exist_ok=True)
            draw_curves(pairs[setup], name, place / CURVES)
        found[f"{name}: {setup}" if len(every) > 1 else name] = (name, setup, place)
    return found


def hparams(results: Path, rows: Sequence[Row], dataset: str, setup: Setup) -> dict[str, Any]:
    """The hyperparameters of the first run of a setup with augmentation whose small files are there."""
    for row in rows:
        folder = small_files(results, row)
        if (row.dataset, row.setup, row.augmented) == (dataset, setup, True) and (folder / "results.json").exists():
            return Results.read(folder).hparams
    return {}


def first_pair(results: Path, rows: Sequence[Row], setup: Setup) -> dict[bool, Path] | None:
    """The small files of the first seed that has both runs, by whether they are augmented."""
    by_seed: dict[int, dict[bool, Path]] = {}
    for row in rows:
        if row.setup == setup and (folder := small_files(results, row)).exists():
            by_seed.setdefault(row.seed, {})[row.augmented] = folder
    return next((pair for _, pair in sorted(by_seed.items()) if len(pair) == 2), None)


def missing(rows: Sequence[Row], asked: Options) -> list[str]:
    """Say which of the runs that are asked for have no row, of any seed, width or machine."""
    done = {(row.max_epochs, row.dataset, row.augmented) for row in rows}
    found = []
    for epochs, jobs in groupby(asked.jobs(), key=lambda job: job[0]):
        lacks = {name: [each for each in NAMES if (float(epochs), name, each) not in done]
                 for name in dict.fromkeys(job[2] for job in jobs)}  # fmt: skip
        if all(len(ways) == 2 for ways in lacks.values()):
            found.append(f"{epochs} epochs")
            continue
        for name, ways in lacks.items():
            one = f" {'with' if ways[0] else 'without'} augmentation" if len(ways) == 1 else ""
            found += [f"{name}{one}, {epochs} epochs"] if ways else []
    return [f"Not run yet: {'; '.join(found)}."] if found else []


def winograd(results: Path, rows: Sequence[Row]) -> list[str]:
    """Say which setups computed their convolutions by Winograd's algorithm, by the small files of their runs."""
    found = []
    for row in rows:
        folder = small_files(results, row)
        run = Results.read(folder) if (folder / "results.json").exists() else None
        if run and run.winograd_layers:
            found.append(f"{row.setup.short}: {run.winograd_layers} convolutions by Winograd's algorithm.")
    return list(dict.fromkeys(found))


def markdown(
    parts: Sequence[Section], rows: Sequence[Row], measures: Sequence[Measure], results: Path, folder: Path
) -> str:
    """The page for a file of a folder; `results` is the folder of the rows."""
    names = ("article.html", "rows.csv", "measures.csv")
    lines = [INTRODUCTION, *(f"- {each}" for each in findings(claims_of(longest(rows), rows, measures))), ""]
    lines.append(FILES.format(*(os.path.relpath(results / name, folder) for name in names)))
    for part in parts:
        lines += [f"## {part.heading}", "", *(f"{as_code(note)}\n" for note in part.notes)]
        if part.table:
            lines += [row_text(part.table.header), "|" + " --- |" * len(part.table.header)]
            lines += [*map(row_text, part.table.rows), ""]
        for figure in part.figures:
            lines += [f"![{figure.alt}]({os.path.relpath(figure.path, folder)})", "", figure.caption, ""]
    return "\n".join(lines)


def row_text(cells: object) -> str:
    texts = [str(each).replace("|", "\\|") for each in cells]
    return f"| {' | '.join(map(as_code, texts))} |"


def as_code(text: str) -> str:
    """A command as code; any other text as it is."""
    return f"`{text}`" if text.startswith("python ") else text
