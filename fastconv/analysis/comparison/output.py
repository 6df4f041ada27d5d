"""Prints tables of runs: drawn to fit the terminal, or in a format for other programs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastconv.analysis.comparison.tables import as_csv, as_markdown, columns, heading, shown
from fastconv.analysis.comparison.verdicts import BEST
from fastconv.runs.collection import Entry
from fastconv.runs.results import MEASURES
from fastconv.system.json_text import as_json
from fastconv.system.names import printable
from fastconv.system.terminal import plain_console

if TYPE_CHECKING:
    from rich.table import Table

# Characters of a line of a table that goes to a file or another program.
FILE_WIDTH = 200
# A table of more rows is printed as plain lines: drawing it takes a millisecond a row.
DRAWN_ROWS = 500
# A word that is longer, such as a path, is broken where the terminal is narrow.
LONGEST_WORD = 24
# The column in which settings stand together where there is no room for a column of each.
SETTINGS = "settings"
# The first columns after those of settings.
COUNTS = ("n", "seed")
# Columns before the first score that are never told below, and are no settings.
APART = ("verdict", "problem")
# Columns that make no sense without each other.
INTERVAL = ("low", "high")

Rows = Sequence[Mapping[str, Any]]


def as_lines(rows: Rows, header: list[str]) -> list[str]:
    """Format rows as lines of aligned columns."""
    from rich.cells import cell_len

    cells = [[heading(name) for name in header], *([shown(name, row[name]) for name in header] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def fitting(rows: Rows, header: list[str], room: int) -> tuple[Rows, dict[str, int], str]:
    """Choose what fits into a line of `room` characters, without cutting a word or a number.

    Columns that are the same in all rows are left out first; then settings share a column; then the last columns are
    left out, up to the first score.

    Returns the rows, the width of each column that is shown, and a sentence about the others (empty if there are none).
    """
    first = next((place for place, name in enumerate(header) if name in (*MEASURES, *COUNTS)), len(header))
    score = next((place for place, name in enumerate(header) if name in MEASURES), first)
    words = longest(rows, header, str.split)
    told = [
        name
        for name in header[:score]
        if needed(words) > room and name not in APART and len({shown(name, row[name]) for row in rows}) == 1
    ]
    words = {name: width for name, width in words.items() if name not in told}
    settings = [name for name in header[1:first] if name in words and name not in APART]
    if needed(words) > room and len(settings) > 1:
        rows = [{**row, SETTINGS: _assignments(row, settings)} for row in rows]
        names = [SETTINGS if name == settings[0] else name for name in words if name not in settings[1:]]
        words = longest(rows, names, str.split)
    for name in reversed(header[score + 1 :]):
        if needed(words) > room and name in words:
            for each in INTERVAL if name in INTERVAL else (name,):
                del words[each]
    hidden = [heading(name) for name in header[score + 1 :] if name not in words]
    widths = longest(rows, list(words), lambda cell: [cell])
    while needed(widths) > room and any(widths[name] > words[name] for name in words):
        widths[max(words, key=lambda name: widths[name] - words[name])] -= 1
    notes = [f"in all rows: {_assignments(rows[0], told)}"] * bool(told)
    notes += [f"no room for: {', '.join(hidden)} (fastconv compare format=csv has all columns)"] * bool(hidden)
    return rows, widths, "; ".join(notes)


def longest(rows: Rows, header: list[str], parts: Callable[[str], list[str]]) -> dict[str, int]:
    """The characters of the longest part of a cell in each column; of a word at most `LONGEST_WORD`."""
    from rich.cells import cell_len

    found = {}
    for name in header:
        cells = [heading(name), *(shown(name, row[name]) for row in rows)]
        most = max((cell_len(part) for cell in cells for part in parts(cell)), default=1)
        found[name] = min(most, LONGEST_WORD) if parts is str.split else most
    return found


def needed(widths: Mapping[str, int]) -> int:
    """The characters of a line of a table, with the lines and spaces between its columns."""
    return sum(widths.values()) + 3 * len(widths) + 1


def _assignments(row: Mapping[str, Any], names: list[str]) -> str:
    return " ".join(f"{name}={shown(name, row[name])}" for name in names if row[name] not in (None, ""))


def drawn(rows: Rows, widths: Mapping[str, int]) -> "Table":
    """Draw columns of the given widths, numbers flush right."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name, width in widths.items():
        is_number = all(isinstance(row[name], int | float) or row[name] in (None, "") for row in rows)
        table.add_column(heading(name), width=width, overflow="fold", justify="right" if is_number else "left")
    for row in rows:
        style = "bold" if row.get("verdict") == BEST else "red" if row.get("problem") else None
        table.add_row(*(Text(shown(name, row[name])) for name in widths), style=style)
    return table


def print_table(rows: list[dict[str, Any]], header: list[str], problems: list[Entry]) -> None:
    """Print rows to the terminal, as wide as it is, and below them why each unfinished run has no results."""
    console = plain_console(width=None if sys.stdout and sys.stdout.isatty() else FILE_WIDTH)
    if len(rows) <= DRAWN_ROWS:
        fitted, widths, note = fitting(rows, header, console.width)
        header = list(widths)
        console.print(drawn(fitted, widths))
        if note:
            console.print(note)
    else:
        print("\n".join(as_lines(rows, header)))
    for entry in () if "problem" in header else problems:
        console.print(printable(f"{entry.folder}: {entry.problem}"), style="red")


def write_rows(rows: list[dict[str, Any]], style: str, problems: list[Entry]) -> None:
    """Print rows as a `table` with the problems of runs below it, or as `csv`, `json` or `markdown`."""
    header = columns(rows)
    if style == "csv":
        print(as_csv(rows, header), end="")
    elif style == "json":
        print(as_json([{name: row[name] for name in header} for row in rows], indent=1))
    elif style == "markdown":
        print(as_markdown(rows, header))
    else:
        print_table(rows, header, problems)
