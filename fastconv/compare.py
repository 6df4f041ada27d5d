"""python -m fastconv.compare [runs=FOLDER] [format=table|csv|markdown]

One row for each run below a folder, or below several (runs=[a,b]), from its results.json. Failed and unfinished runs
are shown with their reason.
"""

import csv
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fastconv.command import command
from fastconv.config import Compare
from fastconv.errors import InputError, nearest
from fastconv.results import Results

FORMATS = ("table", "csv", "markdown")
# Columns of a table that goes to a file or another program.
FILE_WIDTH = 200


@dataclass(frozen=True)
class Row:
    """A run's folder and its results, or why there are none."""

    run: Path
    results: Results | None
    problem: str | None


def find_runs(folders: list[Path]) -> list[Row]:
    """The runs below the folders, oldest first. Raises InputError for a folder that is not there."""
    rows = []
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib raises for a name that is too long
            raise InputError(
                f"runs={folder} is not a folder: give the folder that holds the runs, such as runs=outputs"
            )
        for config in folder.rglob("config.yaml"):
            if (config.parent / "experiment").is_dir():  # the configs of fastconv itself
                continue
            try:
                results = Results.read(config.parent)
                unfinished = "running, or killed" if results.stopped_by is None else None
                rows.append(Row(config.parent, results, results.error or unfinished))
            except FileNotFoundError:
                rows.append(Row(config.parent, None, "unfinished: no results.json"))
            except (OSError, ValueError, KeyError) as error:
                rows.append(Row(config.parent, None, f"results.json cannot be read: {error}"))
    return sorted(rows, key=lambda row: (row.run / "config.yaml").stat().st_mtime)


def cells(row: Row) -> dict[str, str]:
    """A run as text, column by column."""
    results = row.results or Results("?", "?", None, 0, 0)

    def number(value: float | None, pattern: str) -> str:
        return "" if value is None else format(value, pattern)

    return {
        "run": str(row.run),
        "dataset": results.dataset,
        "model": results.model,
        "experiment": results.experiment or "",
        "seed": str(results.seed) if row.results else "",
        "accuracy %": number(results.accuracy and 100 * results.accuracy, ".2f"),
        "epochs": number(results.epochs, ".2f"),
        "seconds": number(results.seconds_counted, ".1f"),
        "images/s": number(results.images_per_second, ",.0f"),
        "stopped by": results.stopped_by or "",
        "problem": row.problem or "",
    }


def check(config: Compare) -> None:
    """Raise InputError for a table that cannot be made."""
    if config.format not in FORMATS:
        raise InputError(
            f"format={config.format} is unknown{nearest(config.format, FORMATS)} Choose from: {', '.join(FORMATS)}"
        )
    folders = run_folders(config)
    if not folders or any(
        isinstance(folder, dict | list) or folder is None or not str(folder).strip() for folder in folders
    ):
        raise InputError(f"runs={config.runs} is not possible: give a folder, or a list of folders as [a,b]")


def run_folders(config: Compare) -> list:
    """The folders that `runs` names."""
    return list(config.runs) if isinstance(config.runs, list) else [config.runs]


@command("compare", __doc__, check)
def main(config: Compare) -> None:
    """The command; see the top of this file."""
    check(config)
    folders = run_folders(config)
    rows = [cells(row) for row in find_runs([Path(str(folder)) for folder in folders])]
    if not rows:
        raise InputError(f"no runs below {', '.join(map(str, folders))}: train one with python -m fastconv.train")
    header = [name for name in rows[0] if any(row[name] for row in rows)]
    if config.format == "csv":
        writer = csv.DictWriter(sys.stdout, header, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif config.format == "markdown":
        print("| " + " | ".join(header) + " |")
        print("|" + " --- |" * len(header))
        for row in rows:
            print("| " + " | ".join(row[name].replace("|", "\\|") for name in header) + " |")
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header)
        for row in rows:
            table.add_row(*(Text(row[name]) for name in header), style="red" if row["problem"] else None)
        Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


if __name__ == "__main__":
    main()
