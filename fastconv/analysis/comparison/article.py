"""The article's page: results of its recipe on each data set of a sweep, with and without augmentation."""

import shlex
from pathlib import Path

from rich.console import Console

from fastconv.analysis.attribution.augmentation_effect import explain_sweep
from fastconv.analysis.comparison.figures import draw_learning
from fastconv.analysis.comparison.tables import heading, shown
from fastconv.analysis.html import Figure, Table, stored_figure, write_page
from fastconv.config.sweeps import described
from fastconv.runs.collection import Entry, as_text, find_runs
from fastconv.runs.hparams import is_augmented
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.names import file_name

# Settings of the heatmaps shown here; fastconv.explain makes the whole report.
HEATMAPS = ("method=[grad_cam]", "per_class=1", "errors=0", "correct=0", "measures=false")
COLUMNS = ("accuracy", "loss", "epochs", "seconds_counted", "images_per_second", "parameters")


def write_article(sweep: Path, data: str, trust: bool = True) -> Path:
    """Write `article.html` to the folder of a sweep over data sets, with and without augmentation.

    Args:
        sweep: the sweep's folder, with one folder for each run.
        data: folder of the data sets.
        trust: run the code that the files of its runs name.

    Raises InputError for a sweep without a finished run, or a page that cannot be written.
    """
    entries = find_runs([sweep])
    datasets: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: not is_augmented(entry.hparams)):
        datasets.setdefault(str(entry.setting("dataset")), []).append(entry)
    finished = [entry.results for entry in entries if entry.problem is None and entry.results is not None]
    if not finished:
        raise InputError(f"{sweep} has no finished run: there is nothing to write about")
    heatmaps: dict[str, Path] = {}
    try:
        heatmaps = explain_sweep(sweep, data, HEATMAPS, Console(quiet=True), trust)
    except InputError as error:  # no pair of runs
        reason = str(error)
    else:
        reason = "one of the two runs is not finished"
    path = sweep / "article.html"
    sweep_command = described(sweep)
    write_page(
        path,
        "article.html",
        title=f"Results of {budget_of(finished[0])}: {', '.join(datasets)}",
        findings=[sentence(name, runs) for name, runs in datasets.items()],
        machine=machine(finished[0]),
        results=results_table(entries, datasets),
        datasets={name: figures_of(name, runs, heatmaps.get(name)) for name, runs in datasets.items()},
        missing={name: reason for name in datasets if name not in heatmaps},
        command=shlex.join(["python", "-m", "fastconv.train", "-m", *sweep_command["overrides"]])
        if sweep_command
        else "",
    )
    return path


def budget_of(results: Results) -> str:
    """Describe the time limit."""
    return "training without a time limit" if results.budget_seconds is None else f"{results.budget_seconds:g} seconds"


def variant(entry: Entry) -> str:
    """Name a run beside its counterpart."""
    return "with augmentation" if is_augmented(entry.hparams) else "without augmentation"


def sentence(dataset: str, runs: list[Entry]) -> str:
    """Say what each run reached on a data set, or why it has no result."""
    parts = []
    for run in runs:
        results = run.results
        if run.problem is not None or results is None or results.accuracy is None or results.epochs is None:
            parts.append(f"{variant(run)}: {run.problem}")
            continue
        max_epochs = run.hparams.get("schedule.max_epochs")
        epochs = f"{results.epochs:.2f}" + (f" of {as_text(max_epochs)}" if max_epochs else "")
        parts.append(f"{100 * results.accuracy:.2f} % {variant(run)} after {epochs} epochs")
    return f"{dataset}: {'; '.join(parts)}."


def machine(results: Results) -> str:
    """Describe the device, the precision, the parts that the budget counts, and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    counted = " + ".join(results.budget_counts)
    commit = f"; commit {results.git_commit[:10]}" if results.git_commit else ""
    return f"{results.device}, {results.precision}; the budget counts {counted}; {versions}{commit}."


def results_table(entries: list[Entry], datasets: dict[str, list[Entry]]) -> Table:
    """Return a row for each run, with the seconds of every segment."""
    segments = list(dict.fromkeys(name for entry in entries if entry.results for name in entry.results.seconds))
    header = ["data set", "", "seed", *map(heading, COLUMNS), *(f"{name} s" for name in segments)]
    rows = []
    for name, runs in datasets.items():
        for run in runs:
            results = run.results
            cells = [shown(key, getattr(results, key)) if results else "" for key in COLUMNS]
            cells += [f"{results.seconds.get(segment, 0):.1f}" if results else "" for segment in segments]
            rows.append([name, variant(run), str(run.hparams.get("seed", "")), *cells])
    return Table(header, rows, sortable=True)


def figures_of(dataset: str, runs: list[Entry], heatmaps: Path | None) -> list[Figure]:
    """Return the figures of a data set: learning curves, augmented training images, and heatmaps."""
    figures = []
    folders = {variant(run): run.folder for run in reversed(runs)}
    path = runs[0].folder.parent / f"learning-{file_name(dataset)}.png"
    if draw_learning(folders, dataset, path):
        text = "Loss and accuracy over the epochs (lines: training images as augmented; dots: test images, for looking"
        figures.append(Figure(path, f"{dataset}: curves", f"{text} only), and the learning rate as it was."))
    augmented = next((run.folder / "augmented.png" for run in runs if is_augmented(run.hparams)), None)
    caption = "The first images of the training stream: padded and cropped, flipped, cut out."
    if augmented and (found := stored_figure(augmented, f"Augmented images of {dataset}", caption)):
        figures.append(found)
    if heatmaps:
        caption = (
            "One test image of each class under Grad-CAM of the network trained without and with augmentation: evidence"
            " for the predicted class. A cross marks a wrong prediction."
        )
        figures.append(Figure(heatmaps / "effect.png", f"Heatmaps of {dataset}", caption))
    return figures
