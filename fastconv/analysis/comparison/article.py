"""The article's page: what its recipe reaches on each data set of a sweep, and what augmentation changes there."""

import shlex
from pathlib import Path

from rich.console import Console

from fastconv.analysis.attribution.augmentation_effect import explain_sweep
from fastconv.analysis.comparison.figures import draw_learning
from fastconv.analysis.comparison.tables import heading, shown
from fastconv.analysis.html import Figure, figure_of, lead, table, write_page
from fastconv.analysis.html import escape as _
from fastconv.config.sweeps import described
from fastconv.runs.collection import Entry, find_runs
from fastconv.runs.hparams import is_augmented
from fastconv.runs.results import Results
from fastconv.system.errors import InputError

# Of the heatmaps shown here; the whole report is made by fastconv.explain.
HEATMAPS = ("method=[grad_cam]", "per_class=1", "mistakes=0", "hits=0", "measures=false")
COLUMNS = ("accuracy", "loss", "epochs", "seconds_counted", "images_per_second", "parameters")


def write_article(sweep: Path, data: str) -> Path:
    """Write `article.html` to the folder of a sweep over data sets, with and without augmentation.

    Args:
        sweep: the sweep's folder, with one folder for each run.
        data: folder of the data sets.

    Raises InputError for a sweep of which no run is finished, or a page that cannot be written.
    """
    entries = find_runs([sweep])
    datasets: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: not is_augmented(entry.hparams)):
        datasets.setdefault(str(entry.setting("dataset")), []).append(entry)
    finished = [entry for entry in entries if entry.problem is None]
    if not finished:
        raise InputError(f"{sweep} has no finished run: there is nothing to write about")
    try:
        heatmaps = explain_sweep(sweep, data, HEATMAPS, Console(quiet=True))
    except InputError as error:  # no pair of runs
        heatmaps, missing = {}, str(error)
    else:
        missing = "one of the two runs is not finished"
    title = f"What {budget_of(finished[0].results)} give: {', '.join(datasets)}"
    parts = [
        f"<h1>{_(title)}</h1>",
        lead(sentence(name, runs) for name, runs in datasets.items()),
        "<h2>Results</h2>",
        f"<p class=faint>{_(machine(finished[0].results))}</p>",
        results_table(entries, datasets),
    ]
    for name, runs in datasets.items():
        parts += [f"<h2>{_(name)}</h2>", *map(figure_of, figures_of(name, runs, heatmaps.get(name)))]
        if name not in heatmaps:
            parts.append(f"<p class=no>No heatmaps: {_(missing)}.</p>")
    if asked := described(sweep):
        command = shlex.join(["python", "-m", "fastconv.train", "-m", *asked["overrides"]])
        parts += ["<h2>How to make this page</h2>", f"<pre>{_(command)}</pre>"]
    path = sweep / "article.html"
    write_page(path, title, parts)
    return path


def budget_of(results: Results) -> str:
    """The time limit in words."""
    return "as many seconds as it takes" if results.budget_seconds is None else f"{results.budget_seconds:g} seconds"


def side_of(entry: Entry) -> str:
    """What a run is called beside its counterpart."""
    return "with augmentation" if is_augmented(entry.hparams) else "without augmentation"


def sentence(dataset: str, runs: list[Entry]) -> str:
    """What was reached on a data set."""
    said = []
    for run in runs:
        if run.problem is not None:
            said.append(f"{side_of(run)}: {run.problem}")
            continue
        bound = run.hparams.get("schedule.max_epochs")
        epochs = f"{run.results.epochs:.2f}" + (f" of {bound:g}" if bound else "")
        said.append(f"{100 * run.results.accuracy:.2f} % {side_of(run)} after {epochs} epochs")
    return f"{dataset}: {'; '.join(said)}."


def machine(results: Results) -> str:
    """What the runs were made on and with."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    counted = " + ".join(results.budget_counts)
    commit = f"; commit {results.git_commit[:10]}" if results.git_commit else ""
    return f"{results.device}, {results.precision}; the budget counts {counted}; {versions}{commit}."


def results_table(entries: list[Entry], datasets: dict[str, list[Entry]]) -> str:
    """A row for each run, with the seconds of every segment."""
    segments = list(dict.fromkeys(name for entry in entries if entry.results for name in entry.results.seconds))
    header = ["data set", "", "seed", *map(heading, COLUMNS), *(f"{name} s" for name in segments)]
    rows = []
    for name, runs in datasets.items():
        for run in runs:
            results = run.results
            cells = [shown(key, getattr(results, key)) if results else "" for key in COLUMNS]
            cells += [f"{results.seconds.get(segment, 0):.1f}" if results else "" for segment in segments]
            rows.append([_(name), _(side_of(run)), str(run.hparams.get("seed", "")), *map(_, cells)])
    return table(header, rows, sortable=True)


def figures_of(dataset: str, runs: list[Entry], heatmaps: Path | None) -> list[Figure]:
    """The figures of a data set: how its runs learned, what the network was shown, and where it looks."""
    figures = []
    sides = {side_of(run): run.folder for run in reversed(runs)}
    path = runs[0].folder.parent / f"learning-{dataset}.png"
    if draw_learning(sides, dataset, path):
        text = "Loss and accuracy over the epochs (lines: training images as augmented; dots: test images, for looking"
        figures.append(Figure(path, f"{dataset}: curves", f"{text} only), and the learning rate as it was.", "answer"))
    shown_images = next((run.folder / "augmented.png" for run in runs if is_augmented(run.hparams)), None)
    if shown_images and shown_images.exists():
        caption = "The first images of the training stream: padded and cropped, mirrored, cut out."
        figures.append(Figure(shown_images, f"Augmented images of {dataset}", caption, "answer"))
    if heatmaps:
        caption = (
            "One test image of each class under Grad-CAM of the network trained without and with augmentation: evidence"
            " for the class that it names. A cross marks a wrong answer."
        )
        figures.append(Figure(heatmaps / "effect.png", f"Heatmaps of {dataset}", caption, "answer"))
    return figures
