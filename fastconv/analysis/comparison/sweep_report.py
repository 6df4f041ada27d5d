"""Writes the end of a sweep: a table of its runs, a page, and the report that its config names."""

from collections.abc import Callable
from pathlib import Path

from fastconv.analysis.comparison.groups import choose_measure, group_runs
from fastconv.analysis.comparison.output import print_table
from fastconv.analysis.comparison.report import write_comparison
from fastconv.analysis.comparison.tables import columns, group_rows
from fastconv.runs.collection import find_runs


def augmentation_effect(sweep: Path, data: Path, trust: bool) -> None:
    """Report, for each data set, where the networks look with and without augmentation."""
    from fastconv.analysis.attribution.augmentation_effect import explain_sweep  # loads Captum

    explain_sweep(sweep, str(data), trust=trust)


def article(sweep: Path, data: Path, trust: bool) -> None:
    """Write `article.html`: the results of the runs on each data set, with and without augmentation."""
    from fastconv.analysis.article.page import write_article  # loads Captum

    print(write_article(sweep, str(data), trust))


# The reports that `sweep.report` names. Each gets the folder of the sweep, that of the data sets, and whether the
# user trusts the sweep's files.
REPORTS: dict[str, Callable[[Path, Path, bool], None]] = {
    "augmentation_effect": augmentation_effect,
    "article": article,
}


def write_sweep_report(sweep: Path, report: str, data: Path, trust: bool = True) -> bool:
    """Print a table of a sweep's runs, write `compare.html` and the report to its folder.

    Args:
        sweep: the sweep's folder, with one folder for each run.
        report: one of `REPORTS`, or `none`.
        data: folder of the data sets.
        trust: run the code that the files of its runs name.

    Returns whether all runs are finished, or were pruned. Raises InputError for a report that the runs do not allow, or
    a page that cannot be written.
    """
    entries = find_runs([sweep])
    if not entries:  # they were only planned
        return True
    groups = group_runs(entries, measure := choose_measure(entries))
    rows = group_rows(groups, measure)
    print_table(rows, columns(rows), [entry for group in groups for entry in group.problems])
    write_comparison(groups, measure, sweep / "compare.html")
    print(sweep / "compare.html")
    if report != "none":
        REPORTS[report](sweep, data, trust)
    return not any(entry.problem and not entry.is_pruned for entry in entries)
