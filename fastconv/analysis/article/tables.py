"""The tables of the article's page."""

from collections.abc import Callable, Sequence

from fastconv.analysis.article.claims import Claim, gain_by_epochs
from fastconv.analysis.article.heatmaps import ON_OBJECT, measure_gain
from fastconv.analysis.article.rows import Measure, Row, Setup, setups
from fastconv.analysis.article.verdicts import NO, YES, interval, verdict
from fastconv.analysis.attribution.findings import ABSOLUTE, MEASURES
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.html import Cell, Table
from fastconv.system.wording import measured

# A verdict that rests on one seed has none.
TONES = {YES: "good", NO: "bad"}
WAYS = {True: "with augmentation", False: "without"}


def results_table(rows: Sequence[Row]) -> Table:
    """Return a line for each setup and data set with and without augmentation: means ± standard deviations.

    Settings have a column if a setup names some.
    """
    header = ["data set", "runs", "accuracy %", "loss", "seconds", "epochs", "parameters", "images/s", "n", "width",
              "device", "settings"]  # fmt: skip
    lines = []
    for setup in setups(rows):
        here = [row for row in rows if row.setup == setup]
        for dataset in dict.fromkeys(row.dataset for row in here):
            for augmented, way in WAYS.items():
                some = [row for row in here if (row.dataset, row.augmented) == (dataset, augmented)]
                if some:
                    lines.append([dataset, way, *_means(some), *_about(setup)])
    if not any(line[-1] for line in lines):
        header, lines = header[:-1], [line[:-1] for line in lines]
    return Table(header, lines, sortable=True)


def _means(rows: list[Row]) -> list[str]:
    def mean(value: Callable[[Row], float], pattern: str) -> str:
        return spread(summarise(value(row) for row in rows), pattern)

    first = rows[0]
    epochs = mean(lambda row: row.epochs, ".1f") + (f" of {first.max_epochs:g}" if first.max_epochs else "")
    values = [mean(lambda row: 100 * row.accuracy, ".2f"), mean(lambda row: row.loss, ".4f")]
    values += [mean(lambda row: row.seconds, ".1f"), epochs, f"{first.parameters:,}"]
    return [*values, mean(lambda row: row.images_per_second, ",.0f"), str(len(rows))]


def _about(setup: Setup) -> list[str]:
    return [str(setup.width or "-"), f"{setup.device} ({setup.precision})", setup.settings]


def spread(summary: Summary, pattern: str) -> str:
    """Format a mean with its standard deviation, if there is one."""
    if not summary.n:
        return "-"
    return f"{summary.mean:{pattern}}" + (f" ± {summary.sd:{pattern}}" if summary.n > 1 else "")


def claims_table(claims: Sequence[Claim]) -> Table:
    """Return a line for each claim and data set."""
    header = ["claim", "data set", "verdict", "result (95 % interval)", "n", "runs", "measurement",
              "command to repeat it"]  # fmt: skip
    lines: list[list[str | Cell]] = [
        [each.claim, each.dataset, Cell(each.verdict, TONES.get(each.verdict, "")), each.found, str(each.n),
         each.setup.short, each.measurement, each.command]
        for each in claims
    ]  # fmt: skip
    return Table(header, lines)


def epochs_table(rows: Sequence[Row], setup: Setup) -> Table:
    """Return a line for each data set and number of epochs: accuracy without augmentation and with it, and the gain."""
    header = ["data set", "epochs", "without augmentation %", "with %", "difference (95 % interval)", "n",
              "augmentation pays"]  # fmt: skip
    lines: list[list[str | Cell]] = []
    for each, dataset, plain, augmented, gain in gain_by_epochs(rows, setup):
        answer = verdict(gain)
        lines.append(
            [dataset, f"{each.max_epochs:g}", spread(plain, ".2f"), spread(augmented, ".2f"), interval(gain, "+.2f"),
             str(gain.n), Cell(answer, TONES.get(answer, ""))]
        )  # fmt: skip
    return Table(header, lines)


def measures_table(measures: Sequence[Measure], setup: Setup, methods: Sequence[str] | None = None) -> Table:
    """Return a line for each data set, method and measure: without and with augmentation, and the gain, by epochs.

    Args:
        setup: everything that the runs must share, except the number of epochs.
        methods: names of the methods to show; None for all.
    """
    lengths = sorted({each.max_epochs for each in measures if _is_like(each, setup)}, reverse=True)
    header = ["data set", "method", "measure", "better"]
    for epochs in lengths:
        header += [f"{measured(epochs, 'epoch')}: without", "with", "difference (95 % interval)", "n"]
    keys = [key for key in MEASURES if key not in ABSOLUTE]
    found: dict[tuple[str, str, str], dict[float, list[Measure]]] = {}
    for each in measures:
        if _is_like(each, setup) and each.measure in keys and (methods is None or each.method in methods):
            line = found.setdefault((each.dataset, each.method, each.measure), {})
            line.setdefault(each.max_epochs, []).append(each)
    lines = []
    for (dataset, method, key), by_epochs in found.items():
        if key == ON_OBJECT and all(round(each.value, 6) == 1 for some in by_epochs.values() for each in some):
            continue  # by construction, where a method weighs pixels by their distance from black
        cells = [dataset, method, MEASURES[key].title, MEASURES[key].better or ""]
        for epochs in lengths:
            some = by_epochs.get(epochs, [])
            for wanted in (False, True):
                cells.append(spread(summarise(each.value for each in some if each.augmented is wanted), ".3f"))
            gain = measure_gain(some)
            cells += [interval(gain, "+.3f"), str(gain.n)]
        lines.append(cells)
    return Table(header, lines)


def _is_like(measure: Measure, setup: Setup) -> bool:
    return measure.setup._replace(max_epochs=setup.max_epochs) == setup
