"""Tables of runs and of groups of runs: rows of plain values, and their formats as text (CSV, Markdown)."""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastconv.analysis.comparison.groups import Group, further_objectives
from fastconv.runs.collection import LABELS, Entry, as_text
from fastconv.runs.results import ACCURACIES, MEASURES
from fastconv.system.errors import InputError, nearest
from fastconv.system.names import csv_cell, printable

# Results whose mean a row for a group shows.
MEANS = ("epochs", "seconds_counted", "images_per_second")
# Formats of numbers other than accuracies.
PATTERNS = {"epochs": ".2f", "seconds_counted": ".1f", "images_per_second": ",.0f", "loss": ".4f", "parameters": ",d"}
# Columns in which more is better: sorting by them begins with the largest value.
DESCENDING = (*MEASURES, "low", "high", "images_per_second", "epochs", "n")


def group_rows(groups: list[Group], measure: str) -> list[dict[str, Any]]:
    """Return a row for each group: `measure` with its standard deviation and the bounds of its 95 % interval."""
    entries = [entry for group in groups for entry in group.entries]
    rows, further = [], further_objectives(entries, measure)
    for group in groups:
        summary = group.summary(measure)
        shown = dict(group.values)
        for key in ("model.name", "dataset.name"):
            if not {key, key.partition(".")[0]} & set(shown):
                shown = {key.partition(".")[0]: _name(group.setting(key)), **shown}
        rows.append(
            {
                **shown,
                "pretrained": _pretrained(group.entries, entries),
                "n": summary.n,
                "runs": len(group.finished) if len(group.finished) > summary.n else None,
                measure: _known(summary.mean),
                "sd": _known(summary.sd),
                # Student's t knows no bounds, but a mean of shares lies between 0 and 1.
                "low": _known(float(np.clip(summary.mean - summary.half, 0, 1))),
                "high": _known(float(np.clip(summary.mean + summary.half, 0, 1))),
                **{key: _known(group.summary(key).mean) for key in (*further, *MEANS)},
                "verdict": group.verdict,
                "pruned": group.pruned or None,
                "not finished": len(group.problems) - group.pruned or None,
            }
        )
    return rows


def _shown(entries: list[Entry], measure: str) -> list[str]:
    held_out = "_holdout" in measure
    shown = [each for each in ACCURACIES if not held_out or "_holdout" in each]
    return list(dict.fromkeys([*shown, measure, *further_objectives(entries, measure)]))


def _label(value: Any) -> str | None:
    return ", ".join(value) if isinstance(value, list) else value


def run_rows(entries: list[Entry], keys: list[str], measure: str) -> list[dict[str, Any]]:
    """Return a row for each run; `keys` are settings to show.

    Runs that are compared by held-out images do not show their test score.
    """
    rows, measures = [], _shown(entries, measure)
    labels = [key for key in LABELS if any(entry.value(key) for entry in entries)]
    for entry in entries:
        of = functools.partial(_result, entry)
        rows.append(
            {
                "run": printable(str(entry.folder)),
                **{key: _label(entry.value(key)) for key in labels},
                "dataset": of("dataset") or _name(entry.setting("dataset")),
                "model": of("model") or _name(entry.setting("model")),
                "pretrained": _pretrained([entry], entries),
                "experiment": of("experiment"),
                **{key: entry.value(key) for key in keys if key not in ("dataset", "model", "experiment")},
                "seed": of("seed"),
                **{key: of(key) for key in measures},
                "epochs": of("epochs"),
                "seconds_counted": of("seconds_counted"),
                "images_per_second": of("images_per_second"),
                "stop_reason": of("stop_reason"),
                "problem": entry.problem,
            }
        )
    return rows


def _pretrained(runs: list[Entry], entries: list[Entry]) -> str | None:
    """The weights that runs began with; `no` for none, or None where all entries were trained from scratch."""
    began = [entry.results.pretrained for entry in runs if entry.results and entry.results.pretrained]
    mixed = any(entry.results and entry.results.pretrained for entry in entries)
    return began[0] if began else "no" if mixed else None


def _result(entry: Entry, key: str) -> Any:
    return getattr(entry.results, key) if entry.results else None


def _name(value: Any) -> str | None:
    """A setting that is a name, whatever the file of an unfinished run has in its place."""
    return None if value is None else as_text(value)


def _known(number: float) -> float | None:
    """Return None for NaN."""
    return None if number != number else number


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns in which any row has a value, the verdict as the second one."""
    names = list(rows[0]) if rows else []
    return verdict_second([name for name in names if any(row[name] not in (None, "") for row in rows)])


def verdict_second(header: Sequence[str]) -> list[str]:
    """Columns with the verdict as the second one, where a narrow screen shows it too."""
    others = [name for name in header if name != "verdict"]
    return [*others[:1], *["verdict"] * (len(others) < len(header)), *others[1:]]


def sort_rows(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Sort rows by a column: best first, or worst first with a - before it; rows without a value come last.

    Raises InputError for a column that is not there.
    """
    name = key.removeprefix("-")
    if rows and name not in rows[0]:
        raise InputError(
            f"sort={key}: there is no column {name}{nearest(name, rows[0])} There is: {', '.join(rows[0])}"
        )
    there = [row for row in rows if row[name] not in (None, "")]
    numbers = all(isinstance(row[name], int | float) for row in there)
    there.sort(
        key=lambda row: row[name] if numbers else str(row[name]), reverse=(name in DESCENDING) != key.startswith("-")
    )
    return there + [row for row in rows if row[name] in (None, "")]


def shown(name: str, value: Any) -> str:
    """Format a cell for a reader: accuracies in percent, seconds with one decimal."""
    if value is None or value == "":
        return ""
    if not isinstance(value, int | float):  # a setting may have the name of a result
        return as_text(value)
    if name in ("low", "high", "sd", *MEASURES):
        return f"{100 * value:.2f}"
    pattern = PATTERNS.get(name)
    return format(int(value) if pattern == ",d" else value, pattern) if pattern else as_text(value)


def heading(name: str) -> str:
    """Name a column for a reader."""
    return {
        "accuracy": "accuracy %",
        "accuracy_tta": "with TTA %",
        "accuracy_holdout": "held-out %",
        "accuracy_holdout_tta": "held-out, with TTA %",
        "balanced_accuracy": "balanced accuracy %",
        "balanced_accuracy_holdout": "held-out, balanced accuracy %",
        "macro_f1": "macro F1 %",
        "macro_f1_holdout": "held-out, macro F1 %",
        "sd": "± sd",
        "low": "95 % from",
        "high": "to",
        "seconds_counted": "seconds",
        "images_per_second": "images/s",
        "stop_reason": "stop reason",
    }.get(name, name)


def as_csv(rows: list[dict[str, Any]], header: list[str]) -> str:
    """Format rows as CSV, with accuracies in [0, 1] and every digit. No text is a formula for a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows([csv_cell(row[name]) for name in header] for row in rows)
    return text.getvalue()


def as_markdown(rows: list[dict[str, Any]], header: list[str]) -> str:
    """Format rows as a Markdown table for a reader."""
    lines = [[heading(name) for name in header], ["---"] * len(header)]
    lines += [[shown(name, row[name]) for name in header] for row in rows]
    lines = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
