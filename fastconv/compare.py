"""python -m fastconv.compare [runs=FOLDER] [key=value ...]

Compare many runs in one table. Runs that differ only in their seeds form a group, with mean, standard deviation and 95
% interval. A verdict marks the best group and the groups that are not significantly different from it. Failed and
unfinished runs are listed with the reason.

  python -m fastconv.compare runs=outputs/sweeps/2026-11-25_09-00-00-a1b2c3
  fastconv compare runs=latest page=compare.html
  python -m fastconv.compare where=[dataset:mnist,seed:0] sort=seconds_counted page=compare.html
  python -m fastconv.compare by=runs format=csv
"""

import sys
from pathlib import Path

from fastconv.config.cli import Command
from fastconv.config.commands import Compare, as_list
from fastconv.config.given_run import LATEST, latest_run
from fastconv.config.prerequisites import require_writable
from fastconv.config.sweeps import DESCRIPTION
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_settings
from fastconv.system.wording import counted


def check(config: Compare) -> None:
    """Raise InputError for settings that cannot work."""
    check_settings(config)
    for key in ("runs", "where"):
        values = as_list(getattr(config, key))
        if any(isinstance(each, dict | list) or each is None or not str(each).strip() for each in values):
            raise InputError(f"{key}={getattr(config, key)} is not possible: give one, or a list as [a,b]")
    if not as_list(config.runs):
        raise InputError("runs=[] is not possible: give a folder, or a list of folders as [a,b]")
    for each in as_list(config.where):
        if ":" not in str(each):
            raise InputError(f"where={each} is not possible: write key:value, such as where=dataset:mnist")
    if config.page is not None:
        if not config.page.endswith(".html"):
            raise InputError(f"page={config.page} is not possible: give the name of a file that ends in .html")
        require_writable(Path(config.page).parent)


def latest(outputs: Path) -> Path:
    """The folder of the newest finished run below `outputs`, or that of its sweep; prints which. Raises InputError if
    there is none."""
    run = latest_run("runs", outputs)
    found = run.parent if (run.parent / DESCRIPTION).exists() else run
    print(printable(f"fastconv: reading {found}, which {LATEST} stands for"), file=sys.stderr, flush=True)
    return found


@Command("compare", __doc__, check)
def main(config: Compare) -> None:
    """Run the command; see the top of this file."""
    check(config)
    folders = [Path(str(each)) if each != LATEST else latest(Path(config.outputs)) for each in as_list(config.runs)]
    if config.format == "table" and LATEST not in as_list(config.runs):  # the other formats are read by programs
        print(printable(f"fastconv: reading {', '.join(map(str, folders))}"), flush=True)
    from fastconv.analysis.comparison.groups import choose_measure, group_runs
    from fastconv.analysis.comparison.output import write_rows
    from fastconv.analysis.comparison.tables import group_rows, run_rows, sort_rows
    from fastconv.runs.collection import find_runs, select

    entries = find_runs(folders)
    if not entries:
        raise InputError(f"no runs below {', '.join(map(str, folders))}: train one with python -m fastconv.train")
    entries = select(entries, [str(each) for each in as_list(config.where)])
    measure = config.measure or choose_measure(entries)
    groups = group_runs(entries, measure)
    if config.measure and not any(group.summary(measure).n for group in groups):
        raise InputError(f"measure={measure} is not possible: no finished run has this result")
    rows = (
        group_rows(groups, measure) if config.by == "settings" else run_rows(entries, list(groups[0].values), measure)
    )
    rows = rows if config.sort is None else sort_rows(rows, config.sort)
    write_rows(rows, config.format, [entry for group in groups for entry in group.problems])
    if config.page is not None:
        from fastconv.analysis.comparison.report import write_comparison

        write_comparison(groups, measure, Path(config.page))
        print(f"{config.page} shows {counted(len(entries), 'run')}", file=sys.stderr)


if __name__ == "__main__":
    main()
