"""The page of many runs: one sortable table of groups and one of runs, with plots."""

import tempfile
from pathlib import Path

from fastconv.analysis.comparison.figures import draw_curves, draw_effects, draw_front
from fastconv.analysis.comparison.groups import BEST, LIKE_BEST, UNTESTED, Group, by_dataset, effects, names_of
from fastconv.analysis.comparison.tables import columns, group_rows, heading, run_rows, shown
from fastconv.analysis.html import Figure, figure_of, lead, table, write_page
from fastconv.analysis.html import escape as _
from fastconv.runs.collection import as_text

# Columns that are left out where all rows have the same.
SHARED = ("dataset", "model", "experiment")


def write_comparison(groups: list[Group], measure: str, path: Path) -> None:
    """Write the page of some groups of runs to a file. Raises InputError if it cannot be written."""
    entries = [entry for group in groups for entry in group.entries]
    datasets = by_dataset(groups)
    title = f"{len(entries)} runs of {', '.join(datasets)}"
    parts = [
        f"<h1>{_(title)}</h1>",
        lead(findings(groups, measure)),
        "<h2>Settings</h2>",
        "<p class=faint>Runs that differ only in their seeds are one row: mean, standard deviation, bounds of the 95 %"
        " interval of the mean (Student's t). Click a column's name to sort.</p>",
        html_table(group_rows(groups, measure)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for dataset, some in datasets.items():
            parts += [f"<h2>{_(dataset)}</h2>", *map(figure_of, draw(some, measure, Path(folder)))]
    parts += [
        "<h2>Runs</h2>",
        html_table(run_rows(entries, list(groups[0].values), measure)),
        "<h2>In common</h2>",
        in_common(groups),
    ]
    write_page(path, title, parts)


def findings(groups: list[Group], measure: str) -> list[str]:
    """The answer in sentences: for each data set the best, what is not told from it, and what is not known."""
    sentences = []
    for dataset, some in by_dataset(groups).items():
        rivals = [(name, group) for name, group in zip(names_of(some), some, strict=True) if group.verdict]
        if not rivals:
            continue
        name, best = rivals[0]
        summary = best.summary(measure)
        spread = f" ± {100 * summary.sd:.2f}" if summary.n > 1 else ""
        text = f"{dataset}: {name}: {heading(measure).removesuffix(' %')}"
        text += f" {100 * summary.mean:.2f}{spread} % (n = {summary.n})"
        text += ", the best." if len(some) > 1 else "."
        if alike := [name for name, group in rivals if group.verdict == LIKE_BEST]:
            text += f" Welch's t-test at 5 % does not tell it from {named(alike)}."
        if untested := sum(group.verdict == UNTESTED for _, group in rivals):
            text += f" {untested} of {len(some)} settings are untested: with a single run there is no spread."
        sentences.append(text)
    if not sentences:
        sentences.append("No run is finished.")
    if problems := sum(len(group.problems) for group in groups):
        sentences.append(f"{problems} runs failed or are not finished; the table of runs says why.")
    return sentences


def named(names: list[str], most: int = 5) -> str:
    """Names in a sentence, the first of them where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def draw(groups: list[Group], measure: str, folder: Path) -> list[Figure]:
    """Draw what there is to draw of the groups."""
    figures = []
    path = folder / "front.png"
    if draw_front(groups, measure, path):
        caption = "Small dots: runs. Large dots: means. No other mean is both faster and better than those on the line."
        figures.append(Figure(path, "Accuracy against seconds, with the Pareto front", caption, "answer"))
    path = folder / "curves.png"
    if draw_curves(groups, path):
        caption = "Every run over time, by the images that it validated on."
        figures.append(Figure(path, "Validation accuracy of each run over time", caption, "answer"))
    if found := effects(groups, measure):
        path = folder / "effects.png"
        draw_effects(found, measure, path)
        caption = "What each setting changes: grey, the runs that have a value; blue, their mean."
        figures.append(Figure(path, "Accuracy for each value of each setting", caption, "answer"))
    return figures


def html_table(rows: list[dict]) -> str:
    """Rows of plain values as a table that sorts by them."""
    header = columns(rows)
    if len(rows) > 1:  # what all rows share would only widen the table
        header = [name for name in header if name not in SHARED or len({row[name] for row in rows}) > 1]
    cells = [[cell(name, row[name]) for name in header] for row in rows]
    return table([_(heading(name)) for name in header], cells, sortable=True)


def cell(name: str, value: object) -> str:
    """A value as a person reads it."""
    text = _(shown(name, value))
    if value == BEST:
        return f'<span class="yes">{text}</span>'
    return f'<span class="no">{text}</span>' if name == "problem" and value else text


def in_common(groups: list[Group]) -> str:
    """The settings that all runs share."""
    every = [entry.hparams for group in groups for entry in group.entries if entry.hparams]
    shared = {key: value for key, value in (every[0] if every else {}).items()
              if all(hparams.get(key) == value for hparams in every[1:])}  # fmt: skip
    lines = "\n".join(f"{key}={as_text(value)}" for key, value in shared.items())
    return f"<details><summary>{len(shared)} settings</summary><pre>{_(lines)}</pre></details>"
