"""The page of an explanation: its findings and tables, as the template shows them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastconv.analysis.attribution.attribution_run import ExplainedRun
from fastconv.analysis.attribution.experiment import Explanation
from fastconv.analysis.attribution.findings import (
    MEASURES,
    accuracies,
    accuracy_sentence,
    beats_random,
    depends_on_weights,
    differences,
    maps_sentence,
    summarise_runs,
    trust_sentence,
)
from fastconv.analysis.attribution.gallery import galleries
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.html import Cell, Figure, Table, write_page
from fastconv.config.commands import Explain
from fastconv.system.wording import counted

# Settings that the page lists.
SETTINGS = ("per_class", "errors", "correct", "candidates", "target", "steps", "perturbations", "control_images",
            "sensitivity_images", "seed")  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A table of the page with a heading and a note."""

    name: str
    note: str
    table: Table


def write_attribution_page(path: Path, explanation: Explanation, config: Explain, figures: list[Figure]) -> None:
    """Write the page of an explanation. Raises InputError if it cannot be written."""
    methods = ", ".join(explanation.titles.values())
    upper_lower = f"Upper strip: {explanation.names[0]}; lower: {explanation.names[1]}. " if explanation.second else ""
    write_page(
        path,
        "attribution_report.html",
        title=f"{explanation.first[0].run.config.dataset.name}: where the network looks",
        findings=findings(explanation),
        figures=figures,
        measures=measure_sections(explanation),
        differences=difference_section(explanation),
        agreement=agreement_sections(explanation),
        definitions=definitions(explanation),
        timings=timing_section(explanation),
        legend=f"Each strip: the image; then {methods}. {upper_lower}Bright: evidence for the class that is explained."
        " A cross marks a wrong prediction.",
        galleries=galleries(explanation),
        runs=run_table(explanation),
        settings=[f"{name}: {getattr(config, name)}" for name in SETTINGS]
        + [f"method {name}: {values}" for name, values in config.methods.items()],
    )


def findings(explanation: Explanation) -> list[str]:
    """State the findings in sentences made from the measures."""
    titles = explanation.titles
    if not explanation.second:
        accuracy = accuracies(explanation.first)
        scored = accuracy[~np.isnan(accuracy)]
        count = f" (mean of {len(scored)} runs)" if len(scored) > 1 else ""
        text = f"Test accuracy {100 * scored.mean():.2f} %{count}." if len(scored) else "No test accuracy is known."
        return [text, trust_sentence(titles, explanation.groups)]
    found = differences(explanation.first, explanation.second)
    return [
        accuracy_sentence(explanation.names, explanation.first, explanation.second),
        maps_sentence(explanation.names, titles, found, len(explanation.first)),
        trust_sentence(titles, explanation.groups),
    ]


def value(summary: Summary, measure: str) -> str:
    """Format a measure: mean ± standard deviation."""
    text = MEASURES[measure].text
    if not summary.n:
        return "-"
    return text(summary.mean) + (f" ± {text(summary.sd)}" if summary.n > 1 else "")


def verdict(passed: bool | None) -> str | Cell:
    """Format the outcome of a control."""
    if passed is None:
        return "-"
    return Cell("yes", "good") if passed else Cell("no", "bad")


def measure_sections(explanation: Explanation) -> list[Section]:
    """Return the measures of each group of runs, a row for each method; none if they were not measured."""
    seeds = len(explanation.first)
    spread = f"mean ± standard deviation over {seeds} runs" if seeds > 1 else "mean ± standard deviation over images"
    sections = []
    for group, runs in explanation.groups:
        found = {key for run in runs for each in run.measures.values() for key in each}
        keys = [key for key in MEASURES if key in found and not key.endswith("_gain")]
        if not keys:
            continue
        header = ["method", "resolution", "better than random", "depends on the weights"]
        header += [MEASURES[key].title for key in keys]
        rows = []
        for name, title in explanation.titles.items():
            verdicts = [verdict(judge(runs, name)) for judge in (beats_random, depends_on_weights)]
            values = [value(summarise_runs(runs, name, key), key) for key in keys]
            rows.append([title, "x".join(map(str, runs[0].grids[name])), *verdicts, *values])
        sections.append(Section(group, f"{spread}; {image_counts(runs)}.", Table(header, rows)))
    return sections


def image_counts(runs: list[ExplainedRun]) -> str:
    """Say how many images each measure was computed on."""
    found: dict[int, list[str]] = {}
    for measures in runs[0].measures.values():
        for key in (key for key in MEASURES if key in measures and not key.endswith(("_gain", "_random"))):
            found.setdefault(int(np.isfinite(measures[key]).sum()), []).append(MEASURES[key].title)
    if len(found) == 1:
        return counted(next(iter(found)), "image")
    return "; ".join(
        f"{counted(n, 'image')}: {', '.join(dict.fromkeys(names))}" for n, names in sorted(found.items(), reverse=True)
    )


def difference_section(explanation: Explanation) -> Section | None:
    """Return the differences between two groups of runs, with their intervals; None if there is nothing to compare."""
    first, second = explanation.first, explanation.second
    found = differences(first, second) if second else []
    if not found:
        return None
    rows = []
    for each in found:
        measure = MEASURES[each.measure]
        change = measure.text(each.change.mean) if each.change.mean < 0 else f"+{measure.text(each.change.mean)}"
        rows.append(
            [explanation.titles[each.method], measure.title, value(each.first, each.measure),
             value(each.second, each.measure), change, f"± {measure.text(each.change.half)}",
             "yes" if each.change.is_significant else "no"]
        )  # fmt: skip
    by = f"pairs of runs with equal seeds (n = {len(first)})" if len(first) > 1 else "images of one pair of runs"
    return Section(
        "Differences",
        f"Paired by {by}. Of many comparisons, one in twenty is significant by chance.",
        Table(["method", "measure", *explanation.names, "difference", "95 % interval", "significant"], rows),
    )


def agreement_sections(explanation: Explanation) -> list[Section]:
    """Return the rank correlations between methods, for each group of runs."""
    titles, where = explanation.titles, ", on pixels of the object" if explanation.has_background else ""
    sections = []
    for group, runs in explanation.groups:
        pairs = {pair: summarise(np.mean([run.agreement[pair] for run in runs], axis=0)) for pair in runs[0].agreement}
        if not pairs:
            continue
        rows = []
        for name, title in titles.items():
            found = [pairs.get((name, other), pairs.get((other, name))) for other in titles]
            rows.append([title, *("" if each is None else f"{each.mean:.2f} ± {each.sd:.2f}" for each in found)])
        n = max(each.n for each in pairs.values())
        note = f"{group}: rank correlation of signed maps{where}, mean ± standard deviation over {counted(n, 'image')}."
        sections.append(Section(group, note, Table(["", *titles.values()], rows)))
    return sections


def definitions(explanation: Explanation) -> list[tuple[str, str]]:
    """Return title and definition of each measure that was computed."""
    computed = {key for run in explanation.first for found in run.measures.values() for key in found}
    found = [
        (measure.title, measure.definition + (f" ({measure.better} is better)" if measure.better else ""))
        for key, measure in MEASURES.items()
        if key in computed
    ]
    if explanation.has_background:
        measured = explanation.samples.images[explanation.samples.measured]
        share = f"{100 * (measured > 0).any(axis=3).mean():.1f} % of all: the share that an even map would have there"
        found.append(("pixels of the object", share))
    return found


def timing_section(explanation: Explanation) -> Section:
    """Return the seconds of each part of the work."""
    runs = [*explanation.first, *explanation.second]
    parts = list(dict.fromkeys(part for run in runs for part in run.seconds))
    rows = [[part, f"{np.mean([run.seconds.get(part, 0.0) for run in runs]):.1f} s"] for part in parts]
    return Section(
        f"Time it took: {sum(sum(run.seconds.values()) for run in runs):.0f} s",
        f"Seconds for each run ({counted(len(explanation.samples), 'image')}); reading runs and choosing images took"
        f" {explanation.load_seconds:.1f} s once.",
        Table(["part", "seconds"], rows),
    )


def run_table(explanation: Explanation) -> Table:
    """Return a row for each run that was explained."""
    rows = []
    for group, runs in explanation.groups:
        for run in runs:
            results, config = run.run.results, run.run.config
            accuracy = "-" if results is None or results.accuracy is None else f"{100 * results.accuracy:.2f} %"
            epochs = "-" if results is None or results.epochs is None else f"{results.epochs:.2f}"
            seconds = "-" if results is None or results.seconds_counted is None else f"{results.seconds_counted:.1f}"
            device = "-" if results is None else f"{results.device}, {results.precision}"
            parameters = f"{results.parameters:,}" if results and results.parameters else "-"
            rows.append(
                [group, str(config.seed), accuracy, epochs, seconds, config.model.name, parameters, device,
                 run.run.name]
            )  # fmt: skip
    header = ["", "seed", "test accuracy", "epochs", "seconds", "model", "parameters", "device", "folder"]
    return Table(header, rows)
