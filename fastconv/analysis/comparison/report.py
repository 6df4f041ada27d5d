"""The page of many runs: a sortable table of groups, one of runs, and plots."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastconv.analysis.comparison.effects import effects, is_balanced
from fastconv.analysis.comparison.figures import CURVES, LABELS, draw_curves, draw_effects, draw_front
from fastconv.analysis.comparison.groups import Group, by_dataset, names_of
from fastconv.analysis.comparison.tables import columns, group_rows, heading, run_rows, shown, verdict_second
from fastconv.analysis.comparison.verdicts import BEST, FEWEST_SEEDS, HIGHEST, NOT_DIFFERENT, UNTESTED
from fastconv.analysis.html import Cell, Figure, Table, write_page
from fastconv.runs.collection import as_text
from fastconv.system.wording import counted, first_names

# Columns that are left out where all rows have the same value.
SHARED = ("dataset", "model", "experiment")
# Names of groups in a sentence.
NAMED = 5


def write_comparison(groups: list[Group], measure: str, path: Path) -> None:
    """Write the page of some groups of runs to a file. Raises InputError if it cannot be written."""
    entries = [entry for group in groups for entry in group.entries]
    datasets = by_dataset(groups)
    with tempfile.TemporaryDirectory() as folder:
        write_page(
            path,
            "comparison.html",
            title=f"{counted(len(entries), 'run')} of {', '.join(datasets)}",
            findings=findings(groups, measure),
            fewest_seeds=FEWEST_SEEDS,
            groups=table(group_rows(groups, measure)),
            datasets={
                name: draw(some, measure, Path(folder), f"{place}-")
                for place, (name, some) in enumerate(datasets.items())
            },
            runs=table(run_rows(entries, list(groups[0].values), measure)),
            shared=shared_settings(groups),
        )


def findings(groups: list[Group], measure: str) -> list[str]:
    """Say for each data set which group is best, which do not differ significantly from it, and which are untested."""
    sentences = []
    for dataset, some in by_dataset(groups).items():
        found = [(name, group) for name, group in zip(names_of(some), some, strict=True) if group.summary(measure).n]
        if not found:
            continue
        name, first = next((each for each in found if each[1].verdict == BEST), found[0])
        summary = first.summary(measure)
        spread = f" ± {100 * summary.sd:.2f}" if summary.n > 1 else ""
        text = f"{dataset}: {name}: {heading(measure).removesuffix(' %')}"
        text += f" {100 * summary.mean:.2f}{spread} % (n = {summary.n})"
        text += {BEST: ", the best.", HIGHEST: ", the highest."}.get(first.verdict, ".")
        if alike := [name for name, group in found if group.verdict == NOT_DIFFERENT]:
            text += f" Not significantly different from it (Welch's t-test, 5 %): {first_names(alike, NAMED, '; ')}."
        untested = [(name, group) for name, group in found if group.verdict in (UNTESTED, HIGHEST)]
        if untested:
            count = counted(len(untested), "setting is", "settings are")
            text += f" {count} untested: a test needs {FEWEST_SEEDS} seeds of each of two settings."
        if higher := [name for name, group in untested if group.summary(measure).mean > summary.mean]:
            text += f" Higher than the best, but untested: {first_names(higher, NAMED, '; ')}."
        sentences.append(text)
    if not sentences:
        sentences.append("No run is finished.")
    pruned = sum(group.pruned for group in groups)
    if pruned:
        ended = counted(pruned, "run has", "runs have")
        sentences.append(f"{ended} no result: pruned, which is to say that a search ended them early.")
    if problems := sum(len(group.problems) for group in groups) - pruned:
        failed = counted(problems, "run failed or is", "runs failed or are")
        sentences.append(f"{failed} not finished; the table of runs says why.")
    return sentences


def draw(groups: list[Group], measure: str, folder: Path, prefix: str) -> tuple[list[Figure], str]:
    """Draw the figures that the groups have data for, to files of a folder whose names begin with `prefix`.

    Returns them, and a note on what is not drawn, which may be empty.
    """
    figures, note, name = [], "", LABELS[measure].removesuffix(" in %")
    name = name[0].upper() + name[1:]
    path = folder / f"{prefix}front.png"
    if draw_front(groups, measure, path):
        caption = "Small dots: runs. Large dots: means. No other mean is both faster and better than those with a ring."
        figures.append(Figure(path, f"{name} against seconds, with the Pareto front", caption))
    path = folder / f"{prefix}curves.png"
    if draw_curves(groups, path):
        runs = sum(len(group.entries) for group in groups)
        which = "every run" if runs <= CURVES else f"the first {CURVES} of {runs} runs, the best settings first,"
        caption = f"Validation accuracy of {which} over the counted seconds."
        figures.append(Figure(path, "Validation accuracy of each run over time", caption))
    if found := effects(groups, measure):
        path = folder / f"{prefix}effects.png"
        draw_effects(found, measure, path)
        caption = "The effect of each setting. Grey: each seed with a value; blue: their mean."
        figures.append(Figure(path, f"{name} for each value of each setting", caption))
    elif not is_balanced(groups, measure):
        note = (
            "Effects of single settings are not shown: the runs are not a full grid of their values with equally many"
            " seeds, so that a mean over the runs with one value would also depend on the other settings they have."
        )
    return figures, note


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Turn rows of plain values into a sortable table."""
    header = columns(rows)
    if len(rows) > 1:  # a value that all rows share would only widen the table
        header = [name for name in header if name not in SHARED or len({as_text(row[name]) for row in rows}) > 1]
    header = verdict_second(header)
    cells = [[cell(name, row[name]) for name in header] for row in rows]
    return Table([heading(name) for name in header], cells, sortable=True)


def cell(name: str, value: object) -> str | Cell:
    """Format a value for a reader."""
    text = shown(name, value)
    if name == "verdict" and value == BEST:
        return Cell(text, "good")
    return Cell(text, "bad") if name == "problem" and value else text


def shared_settings(groups: list[Group]) -> list[str]:
    """List the settings that all runs share, as key=value."""
    every = [entry.hparams for group in groups for entry in group.entries if entry.hparams]
    first, *others = every or [{}]
    return [
        f"{key}={as_text(value)}"
        for key, value in first.items()
        if all(hparams.get(key) == value for hparams in others)
    ]
