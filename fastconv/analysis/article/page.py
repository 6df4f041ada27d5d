"""The article's page: results, claims, figures and measures, of a sweep's runs or of rows that were kept."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from fastconv.analysis.article.claims import PUBLISHED, claims_of, findings
from fastconv.analysis.article.figures import AUGMENTED, draw_curves, draw_epochs, figures_of
from fastconv.analysis.article.rows import Measure, Row, Setup, measures_of, setups
from fastconv.analysis.article.sweep_rows import rows_of_sweep
from fastconv.analysis.article.tables import claims_table, epochs_table, measures_table, results_table
from fastconv.analysis.attribution.augmentation_effect import explain_sweep
from fastconv.analysis.html import Figure, Table, write_page
from fastconv.config.sweeps import described
from fastconv.runs.collection import Entry, find_runs
from fastconv.system.errors import InputError
from fastconv.system.names import file_name
from fastconv.system.wording import measured

# Settings of the heatmaps and their measures, as overrides of fastconv.explain: its own.
HEATMAPS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, then notes, and a table and figures if there are any."""

    heading: str
    notes: list[str] = field(default_factory=list)
    table: Table | None = None
    figures: list[Figure] = field(default_factory=list)


def write_article(sweep: Path, data: str, trust: bool = True) -> Path:
    """Write `article.html` to the folder of a sweep over data sets, with and without augmentation.

    Args:
        sweep: the sweep's folder, with one folder for each run.
        data: folder of the data sets.
        trust: run the code that the files of its runs name.

    Raises InputError for a sweep without a finished run, or a page that cannot be written.
    """
    entries = find_runs([sweep])
    by_name = {entry.folder.name: entry for entry in entries}
    rows = rows_of_sweep(entries)
    if not rows:
        raise InputError(f"{sweep} has no finished run: there is nothing to write about")
    reports: dict[str, Path] = {}
    try:
        reports = explain_sweep(sweep, data, HEATMAPS, Console(quiet=True), trust)
    except InputError as error:  # no pair of runs
        reason = str(error)
    else:
        reason = "one of the two runs is not finished"
    measured_by = {report: measures_of(report, rows) for report in reports.values()}
    measures = [each for some in measured_by.values() for each in some]
    several = len(setups(rows)) > 1
    figures, missing = {}, {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        setup, pair = first_pair(rows, dataset)
        runs = {augmented: by_name[row.run] for augmented, row in pair.items()}
        heading = f"{dataset}: {setup}" if several else dataset
        curves = sweep / f"learning-{file_name(dataset)}.png"
        draw_curves({augmented: run.folder for augmented, run in runs.items()}, dataset, curves)
        # A sweep over epochs has a report for each number: that of the runs whose curves are shown.
        effects = next((report for report, some in measured_by.items()
                        if any((each.dataset, each.setup) == (dataset, setup) for each in some)), None)  # fmt: skip
        shown = runs[max(runs)]  # the one with augmentation, if it is there
        augmented = (shown.folder if True in runs else sweep) / AUGMENTED
        figures[heading] = figures_of(dataset, curves, augmented, effects, shown.hparams)
        if effects is None:
            missing[heading] = reason
    told = described(sweep)
    again = shlex.join(["python", "-m", "fastconv.train", "-m", *told["overrides"]]) if told else ""
    path = sweep / "article.html"
    write_html(path, sections(rows, measures, figures, sweep / "epochs.png", missing, again), rows, measures,
               problems(entries))  # fmt: skip
    return path


def first_pair(rows: Sequence[Row], dataset: str) -> tuple[Setup, dict[bool, Row]]:
    """Return the first setup of a data set that has a pair of runs of one seed, and these, by whether they are
    augmented; without any pair, the first setup and the run of its first seed."""
    own = [row for row in rows if row.dataset == dataset]
    by_seed: dict[tuple[Setup, int], dict[bool, Row]] = {
        (setup, seed): {} for setup in setups(own) for seed in sorted({row.seed for row in own if row.setup == setup})
    }
    for row in own:
        by_seed[row.setup, row.seed].setdefault(row.augmented, row)
    (setup, _), found = next((each for each in by_seed.items() if len(each[1]) == 2), next(iter(by_seed.items())))
    return setup, found


def problems(entries: Sequence[Entry]) -> list[str]:
    """Say why runs have no result."""
    return [f"{entry.setting('dataset')}, {entry.folder.name}: {entry.problem}" for entry in entries if entry.problem]


def sections(
    rows: Sequence[Row],
    measures: Sequence[Measure],
    figures: Mapping[str, list[Figure]],
    epochs: Path,
    missing: Mapping[str, str] | None = None,
    command: str = "",
    methods: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> list[Section]:
    """Return the parts of the page.

    Args:
        rows, measures: finished runs, and measures of their heatmaps.
        figures: by data set, or another heading.
        epochs: the file to draw accuracy against epochs to.
        missing: why a data set, by its heading, has no heatmaps.
        command: makes the whole page again.
        methods: whose measures are shown; None for all.
        notes: what else there is to say of the results.
    """
    whole = longest(rows)
    epochs_of = measured(whole[0].max_epochs, "epoch") if whole[0].max_epochs else "as many epochs as fit"
    found = [Section("Results", [RESULTS, *published(rows), *notes, f"Commits: {', '.join(commits(rows))}."],
                     results_table(rows))]  # fmt: skip
    judged = claims_table(claims_of(whole, rows, measures))
    found.append(Section(f"The article's claims: {epochs_of}", [VERDICTS], judged))
    if compared := next((setup for setup in whole if draw_epochs(rows, setup, epochs)), None):
        text = "Each point is a run of its own with a whole learning-rate cycle. Dots: seeds; lines: their means."
        figure = Figure(epochs, "Test accuracy against epochs, with and without augmentation", text)
        found.append(Section("Accuracy against epochs", [], epochs_table(rows, compared), [figure]))
    for heading, some in figures.items():
        why = [f"No heatmaps: {missing[heading]}."] if missing and heading in missing else []
        found.append(Section(heading, why, None, some))
    text = (
        "Mean ± standard deviation over seeds of each run's mean over its images; with one seed, the interval is over"
        " the images. Definitions: docs/heatmaps.md."
    )
    for setup in whole:
        if (table := measures_table(measures, setup, methods)).rows:
            heading = "Measures of the heatmaps" + f": {setup}" * (len(whole) > 1)
            found.append(Section(heading, [text], table))
    if command:
        found.append(Section("How to make this page", [command]))
    return found


RESULTS = (
    "Test split, scored once at the end of each run. Mean ± standard deviation over n seeds. Seconds are those of"
    " training and validation by the wall clock, which other work on the machine lengthens."
)
VERDICTS = (
    "A verdict is yes or no if the whole 95 % interval over the seeds (Student's t) is on one side, else undecided."
    " One interval in twenty misses by chance. With one seed, the interval is over the images, and the verdict says so:"
    " another seed may differ by more. A measure of heatmaps decides nothing where the better ones are"
    " not significantly better than random ones in deletion. Seconds are given as the range over all runs, from the"
    " shortest to the longest, and hold for the machine that is named."
)


def longest(rows: Sequence[Row]) -> list[Setup]:
    """List the setups with most epochs, whose runs judge the claims."""
    first, *others = setups(rows)
    return [first, *(each for each in others if each.max_epochs == first.max_epochs)]


def published(rows: Sequence[Row]) -> list[str]:
    """Say what was published for the article's network on the data sets of some rows."""
    known = {name: PUBLISHED[name].davidnet for name in dict.fromkeys(row.dataset for row in rows) if name in PUBLISHED}
    return [f"Published for DavidNet on {name}: {text}." for name, text in known.items() if text]


def commits(rows: Sequence[Row]) -> list[str]:
    """List the commits that trained the runs."""
    return list(dict.fromkeys(row.commit or "unknown" for row in rows))


def write_html(path: Path, parts: Sequence[Section], rows: Sequence[Row], measures: Sequence[Measure],
               lines: Sequence[str] = ()) -> None:  # fmt: skip
    """Write the page to a file, with further lines at its top. Raises InputError if it cannot be written."""
    datasets = ", ".join(dict.fromkeys(row.dataset for row in rows))
    told = findings(claims_of(longest(rows), rows, measures))
    write_page(path, "article.html", title=f"The article's experiment: {datasets}", findings=[*told, *lines],
               sections=parts)  # fmt: skip
