"""The page of an explanation."""

import numpy as np

from fastconv.analysis.attribution.drawing import answer, strip
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
from fastconv.analysis.attribution.samples import KINDS, UNKNOWN
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.html import Figure, document, figure_of, lead, table
from fastconv.analysis.html import escape as _
from fastconv.config.commands import Explain


def page(explanation: Explanation, config: Explain, figures: list[Figure]) -> str:
    """The whole page."""
    dataset = explanation.first[0].run.config.dataset.name
    title = f"{dataset}: where the network looks"
    parts = [
        f"<h1>{_(title)}</h1>",
        lead(answers(explanation)),
        *(figure_of(figure) for figure in figures if figure.place == "answer"),
        "<h2>Measures</h2>",
        *(figure_of(figure) for figure in figures if figure.place == "measures"),
        *measures(explanation),
        "<h2>Images</h2>",
        *(figure_of(figure) for figure in figures if figure.place == "images"),
        *gallery(explanation),
        "<h2>Settings</h2>",
        settings(explanation, config),
    ]
    return document(title, parts)


def answers(explanation: Explanation) -> list[str]:
    """What the report found, in sentences made from its numbers."""
    titles = explanation.titles
    if not explanation.second:
        accuracy = accuracies(explanation.first)
        known = accuracy[~np.isnan(accuracy)]
        count = f" (mean of {len(known)} runs)" if len(known) > 1 else ""
        text = f"Test accuracy {100 * known.mean():.2f} %{count}." if len(known) else "No test accuracy is known."
        return [text, trust_sentence(titles, explanation.sides)]
    found = differences(explanation.first, explanation.second)
    return [
        accuracy_sentence(explanation.names, explanation.first, explanation.second),
        maps_sentence(explanation.names, titles, found, len(explanation.first)),
        trust_sentence(titles, explanation.sides),
    ]


# -- tables


def value(summary: Summary, measure: str) -> str:
    """Mean ± standard deviation."""
    text = MEASURES[measure].text
    if not summary.n:
        return "-"
    spread = f" ± {text(summary.sd)}" if summary.n > 1 else ""
    return _(text(summary.mean) + spread)


def verdict(passed: bool | None) -> str:
    """A control's outcome."""
    if passed is None:
        return "-"
    return '<span class="yes">yes</span>' if passed else '<span class="no">no</span>'


def measures(explanation: Explanation) -> list[str]:
    """The tables: each side's measures, what differs, the controls, how methods agree, how long it took."""
    parts, titles = [], explanation.titles
    seeds = len(explanation.first)
    spread = f"mean ± standard deviation over {seeds} runs" if seeds > 1 else "mean ± standard deviation over images"
    for side, runs in explanation.sides:
        found = {key for run in runs for each in run.measures.values() for key in each}
        keys = [key for key in MEASURES if key in found and not key.endswith("_gain")]
        if not keys:
            continue
        parts.append(f"<h3>{_(side)}</h3><p class=faint>{spread}; {counts(runs)}.</p>")
        header = ["method", "places", "better than random", "depends on the weights"]
        header += [_(MEASURES[key].title) for key in keys]
        rows = []
        for name, title in titles.items():
            verdicts = [verdict(judge(runs, name)) for judge in (beats_random, depends_on_weights)]
            cells = [value(summarise_runs(runs, name, key), key) for key in keys]
            rows.append([_(title), "x".join(map(str, runs[0].grids[name])), *verdicts, *cells])
        parts.append(table(header, rows))
    if not parts:
        return ["<p>The maps were not measured (measures=false).</p>"]
    if explanation.second and differences(explanation.first, explanation.second):
        parts += _differences(explanation)
    parts += _agreement(explanation) + _meanings(explanation) + _seconds(explanation)
    return parts


def counts(runs: list) -> str:
    """On how many images each measure rests."""
    found = {}
    for measures_ in runs[0].measures.values():
        for key, values in measures_.items():
            found.setdefault(int(np.isfinite(values).sum()), []).append(MEASURES[key].title)
    return "; ".join(
        f"{n} images: {', '.join(dict.fromkeys(names))}" for n, names in sorted(found.items(), reverse=True)
    )


def _differences(explanation: Explanation) -> list[str]:
    first, second = explanation.first, explanation.second
    rows = []
    for each in differences(first, second):
        measure = MEASURES[each.measure]
        change = measure.text(each.change.mean) if each.change.mean < 0 else f"+{measure.text(each.change.mean)}"
        interval = f"± {measure.text(each.change.half)}"
        rows.append(
            [_(explanation.titles[each.method]), _(measure.title), value(each.first, each.measure),
             value(each.second, each.measure), _(change), _(interval), "yes" if each.change.is_sure else "no"]
        )  # fmt: skip
    by = f"pairs of runs with equal seeds (n = {len(first)})" if len(first) > 1 else "images of one pair of runs"
    header = ["method", "measure", *map(_, explanation.names), "difference", "95 % interval", "beyond it"]
    return [
        "<h3>Differences</h3>",
        f"<p class=faint>Paired by {by}. Of many comparisons, one in twenty is beyond its interval by chance.</p>",
        table(header, rows),
    ]


def _agreement(explanation: Explanation) -> list[str]:
    titles, where = explanation.titles, ", on pixels of the object" if explanation.has_background else ""
    parts = []
    for side, runs in explanation.sides:
        pairs = {pair: summarise(np.mean([run.agreement[pair] for run in runs], axis=0)) for pair in runs[0].agreement}
        rows = []
        for name, title in titles.items():
            found = [pairs.get((name, other), pairs.get((other, name))) for other in titles]
            rows.append([_(title), *("" if each is None else f"{each.mean:.2f} ± {each.sd:.2f}" for each in found)])
        if pairs:
            n = max(each.n for each in pairs.values())
            text = f"{side}: rank correlation of signed maps{where}, mean ± standard deviation over {n} images."
            parts += [f"<p class=faint>{_(text)}</p>", table(["", *map(_, titles.values())], rows)]
    return ["<h3>Agreement of the methods</h3>", *parts] if parts else []


def _meanings(explanation: Explanation) -> list[str]:
    there = {key for run in explanation.first for found in run.measures.values() for key in found}
    entries = [
        f"<dt>{_(MEASURES[key].title)}</dt><dd>{_(MEASURES[key].meaning)}"
        + (f" ({MEASURES[key].better} is better)" if MEASURES[key].better else "")
        + "</dd>"
        for key in MEASURES
        if key in there
    ]
    share = ""
    if explanation.has_background:
        measured = explanation.samples.images[explanation.samples.measured]
        share = (
            f"<dt>pixels of the object</dt><dd>{100 * (measured > 0).any(axis=3).mean():.1f} % of all: what an even map"
            " would have there</dd>"
        )
    return ["<details><summary>What the measures mean</summary><dl>", *entries, share, "</dl></details>"]


def _seconds(explanation: Explanation) -> list[str]:
    runs = [*explanation.first, *explanation.second]
    parts = list(dict.fromkeys(part for run in runs for part in run.seconds))
    rows = [[_(part), f"{np.mean([run.seconds.get(part, 0.0) for run in runs]):.1f} s"] for part in parts]
    return [
        f"<details><summary>Time it took: {sum(sum(run.seconds.values()) for run in runs):.0f} s</summary>",
        f"<p class=faint>Seconds for each run ({len(explanation.samples)} images); reading runs and choosing images"
        f" took {explanation.load_seconds:.1f} s once.</p>",
        table(["part", "seconds"], rows),
        "</details>",
    ]


# -- images


def gallery(explanation: Explanation) -> list[str]:
    """Every image with its heatmaps by every method, for the first run of each side."""
    samples, classes, titles = explanation.samples, explanation.classes, explanation.titles
    parts = [
        f'<p class="legend">Each strip: the image; then {_(", ".join(titles.values()))}. '
        + (f"Upper strip: {_(explanation.names[0])}; lower: {_(explanation.names[1])}. " if explanation.second else "")
        + "Bright: evidence for the class that is explained. A cross marks a wrong answer.</p>"
    ]
    for kind, heading in KINDS.items():
        rows = [row for row, each in enumerate(samples.kinds) if each == kind]
        if not rows:
            continue
        first = f" {_(explanation.names[0])}" if explanation.second and kind in ("mistake", "hit") else ""
        parts.append(f'<h3>{heading}{first}</h3><div class="gallery">')
        for row in rows:
            label = int(samples.labels[row])
            name = classes[label] if label != UNKNOWN else samples.names[row]
            lines, pictures = [], []
            for side, runs in explanation.sides:
                run = runs[0]
                said = int(run.chances[row].argmax())
                text = answer(classes, said, float(run.chances[row, said]), label)
                nothing = [titles[method] for method, maps in run.evidence.items() if not (maps[row] > 0).any()]
                marked = f", no evidence by {', '.join(nothing)}" if nothing else ""
                lines.append(f"{side}: {text}{marked}" if explanation.second else text + marked)
                source = strip(samples.images[row], [maps[row] for maps in run.evidence.values()])
                alt = f"{name}, {lines[-1]}: the image and its heatmaps by {', '.join(titles.values())}"
                pictures.append(f'<img src="{source}" alt="{_(alt)}">')
            parts.append(
                f"<figure>{''.join(pictures)}<figcaption><b>{_(name)}</b> ({_(samples.names[row])}); "
                f"{_('; '.join(lines))}</figcaption></figure>"
            )
        parts.append("</div>")
    return parts


def settings(explanation: Explanation, config: Explain) -> str:
    """Which runs these are, and how they were explained."""
    rows = []
    for side, runs in explanation.sides:
        for run in runs:
            results, trained = run.run.results, run.run.config
            accuracy = "-" if results is None or results.accuracy is None else f"{100 * results.accuracy:.2f} %"
            epochs = "-" if results is None or results.epochs is None else f"{results.epochs:.2f}"
            seconds = "-" if results is None or results.seconds_counted is None else f"{results.seconds_counted:.1f}"
            device = "-" if results is None else f"{results.device}, {results.precision}"
            parameters = f"{results.parameters:,}" if results and results.parameters else "-"
            folder = run.run.name
            cells = (side, trained.seed, accuracy, epochs, seconds, trained.model.name, parameters, device, folder)
            rows.append([_(cell) for cell in cells])
    header = ["", "seed", "test accuracy", "epochs", "seconds", "model", "parameters", "device", "folder"]
    names = ("per_class", "mistakes", "hits", "candidates", "target", "steps", "perturbations", "control_images",
             "sensitivity_images", "seed")  # fmt: skip
    lines = [f"{name}: {getattr(config, name)}" for name in names]
    lines += [f"method {name}: {values}" for name, values in config.methods.items()]
    return table(header, rows) + f"<pre>{_(chr(10).join(lines))}</pre>"
