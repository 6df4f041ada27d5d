"""Rows of the article's experiment: finished runs, and measures of their heatmaps, as a table keeps them."""

import csv
import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.config.quoting import key_of
from fastconv.data.sources.base import builtin_sets
from fastconv.runs.hparams import is_augmented, is_location
from fastconv.runs.results import FINISHED, Results
from fastconv.system.errors import InputError
from fastconv.system.wording import measured

# Overrides that have a column of their own, that every run of the experiment has, or that change how a run computes the
# same: a compiled step, Winograd's convolutions and the number of threads change results by their rounding alone.
KNOWN = (
    "dataset", "augment", "seed", "experiment", "model.width", "schedule.max_epochs", "budget.seconds",
    "trainer.accelerator", "trainer.precision", "trainer.compile", "trainer.winograd", "trainer.num_threads",
)  # fmt: skip
# The same images as by default.
SAME = "stream=auto"
# No epochs, widths or seconds are more.
MOST = 1e12


class Setup(NamedTuple):
    """The columns that runs must share to be compared: rows that differ in any of them are kept apart."""

    max_epochs: float
    """Epochs that the schedule was planned over; 0 if time alone decided."""
    width: int
    """DavidNet's width; 0 for another network."""
    device: str
    precision: str
    settings: str
    """Other overrides of the command line."""

    def __str__(self) -> str:
        epochs = measured(self.max_epochs, "epoch") if self.max_epochs else "as many epochs as fit"
        network = f"DavidNet of {self.network}" if self.width else self.network
        return ", ".join(filter(None, (epochs, network, f"{self.device} ({self.precision})", self.settings)))

    @property
    def network(self) -> str:
        return f"width {self.width}" if self.width else "another network"

    @property
    def short(self) -> str:
        """It without the number of epochs."""
        return ", ".join(filter(None, (self.network, f"{self.device} ({self.precision})", self.settings)))


def labels(some: Iterable[Setup]) -> dict[Setup, str]:
    """Name setups by what they differ in; what all have in common is left out."""
    parts = {each: (each.network, each.device, each.precision, each.settings) for each in some}
    differs = [len(set(values)) > 1 for values in zip(*parts.values(), strict=True)]
    named = {each: ", ".join(filter(None, itertools.compress(parts[each], differs))) for each in parts}
    return {each: name or "default settings" * any(differs) for each, name in named.items()}


@dataclass(frozen=True)
class Row:
    """A finished run. Accuracy is a share in [0, 1] and loss the cross-entropy, both on the test split."""

    dataset: str
    augmented: bool
    seed: int
    accuracy: float
    loss: float
    seconds: float
    """Of training and validation, as the article counts them."""
    epochs: float
    max_epochs: float
    parameters: int
    images_per_second: float
    device: str
    precision: str
    width: int
    settings: str
    commit: str
    ended_by: str
    """`epochs`, or `budget` if time ended it before."""
    run: str = ""
    """Name of the run's folder."""

    @property
    def setup(self) -> Setup:
        """What it shares with the runs that it is compared with."""
        return Setup(self.max_epochs, self.width, self.device, self.precision, self.settings)

    @property
    def key(self) -> tuple[object, ...]:
        """What a repetition of the run shares with it."""
        return self.setup, self.dataset, self.augmented, self.seed

    @property
    def is_whole(self) -> bool:
        """Whether its epochs, and not its time, ended it."""
        return self.ended_by == "epochs"


@dataclass(frozen=True)
class Measure:
    """A measure of the heatmaps of a run, the mean over `n` images (the median of a completeness gap)."""

    dataset: str
    augmented: bool
    seed: int
    method: str
    measure: str
    """A key of `fastconv.analysis.attribution.findings.MEASURES`."""
    value: float
    n: int
    max_epochs: float
    device: str
    precision: str
    width: int
    settings: str
    sd: float = float("nan")
    """Standard deviation over the images."""

    @property
    def setup(self) -> Setup:
        """That of the run."""
        return Setup(self.max_epochs, self.width, self.device, self.precision, self.settings)

    @property
    def key(self) -> tuple[object, ...]:
        """What the same measure of a repetition of the run shares with it."""
        return self.setup, self.dataset, self.augmented, self.seed, self.method, self.measure


def row_of(results: Results | None, run: str = "", device: str | None = None) -> Row | None:
    """Return the row of a run; None if it is not finished.

    Args:
        run: name of the run's folder.
        device: name of the machine, if the caller knows it better than the results.
    """
    if results is None or results.stop_reason not in FINISHED or results.accuracy is None:
        return None
    hparams = results.hparams
    began, width, max_epochs = results.pretrained, hparams.get("model.width"), hparams.get("schedule.max_epochs")
    return Row(
        dataset=_dataset_of(results),
        augmented=is_augmented(hparams),
        seed=results.seed,
        accuracy=results.accuracy,
        loss=_number(results.loss),
        seconds=_number(results.seconds_counted),
        epochs=_number(results.epochs),
        max_epochs=_number(max_epochs, unknown=0.0),
        parameters=results.parameters or 0,
        images_per_second=_number(results.images_per_second),
        device=device or results.device or "",
        precision=results.precision or "",
        width=int(_number(width, unknown=0.0)),
        # Not all overrides tell: experiment=best chooses by itself.
        settings=" ".join([*further(results.overrides), *([f"pretrained={began}"] if began else [])]),
        commit=_short(results.git_commit or ""),
        ended_by=results.stop_reason,
        run=run,
    )


def _dataset_of(results: Results) -> str:
    """The data set's name. Images of your own that bear the name of a built-in one are not what others published on."""
    hparams = results.hparams
    name = str(hparams.get("dataset.name") or results.dataset)
    is_own = hparams.get("dataset.source", "builtin") != "builtin" or hparams.get("dataset._target_")
    return f"{name} (your own images)" if is_own and name in builtin_sets() else name


def measures_of(report: Path, rows: Iterable[Row]) -> list[Measure]:
    """Read the measures of a report of heatmaps for the runs that have a row; none without a readable table.

    Of a run that is compared with several others, they are of the rows for the comparison that the report shows.
    """
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    found = []
    try:
        with (report / "measures.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
            compared = {row.setup for name in {each["run"] for each in lines} for row in by_run.get(name, ())
                        if row.augmented}  # fmt: skip
            for each in lines:
                own = by_run.get(each["run"], [])
                for row in own if len(own) < 2 else [row for row in own if row.setup in compared]:
                    value = each["median" if each["measure"] == "gap" else "mean"]
                    found.append(
                        Measure(row.dataset, row.augmented, row.seed, each["method"], each["measure"], float(value),
                                int(each["n"]), sd=float(each["sd"]), **row.setup._asdict())
                    )  # fmt: skip
    except (OSError, ValueError, KeyError):
        return []
    return found


def read_rows(kind: type[Any], path: Path) -> list[Any]:
    """Read the `Row`s or `Measure`s of a table; none without a file.

    Of several with the same setup and seed, as two machines of a kind may make, the first counts. A header among the
    lines is passed over, which tables that were put together have.

    Raises InputError for a file that cannot be read, and for the first line that is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            header = list(lines.fieldnames or ())
            if header and (missing := [each.name for each in dataclasses.fields(kind) if each.name not in header]):
                raise InputError(f"{path} has no column {missing[0]}: add it, or move the file away")
            found: dict[object, Any] = {}
            for line in lines:
                if list(line.values()) != header:
                    row = _stored(kind, line, f"{path}, line {lines.line_num}")
                    found.setdefault(row.key, row)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    return list(found.values())


def _stored(kind: type[Any], line: Mapping[str | None, str | None], place: str) -> Any:
    """The row of a line, of which columns that the kind does not have are ignored."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        text = line.get(field.name)
        try:
            if text is None or None in line or (field.type is bool and text not in ("yes", "no")):
                raise ValueError
            values[field.name] = text == "yes" if field.type is bool else field.type(text)  # type: ignore[operator]
        except ValueError:
            what = "it has too many or too few columns" if text is None or None in line else f"{field.name} is {text!r}"
            raise InputError(f"{place} is no row of this table ({what}): mend or delete the line") from None
    return kind(**values)


def as_line(row: Row | Measure) -> dict[str, object]:
    """Return the line of a table that keeps a row."""
    return {
        key: ("no", "yes")[value] if isinstance(value, bool) else f"{value:.8g}" if isinstance(value, float) else value
        for key, value in dataclasses.asdict(row).items()
    }


def pair_by_seed(values: Mapping[tuple[bool, int], float]) -> Summary:
    """Summarise the differences with augmentation minus without, over the seeds that have both.

    Args:
        values: by whether the run is augmented, and its seed.
    """
    seeds = [seed for augmented, seed in values if augmented and (False, seed) in values]
    return summarise(values[True, seed] - values[False, seed] for seed in seeds)


def setups(rows: Iterable[Row]) -> list[Setup]:
    """List the setups in the order of the page: by epochs, then width, then number of runs, the largest first."""
    counts: dict[Setup, int] = {}
    for row in rows:
        counts[row.setup] = counts.get(row.setup, 0) + 1
    return sorted(counts, key=lambda setup: (-setup.max_epochs, -setup.width, -counts[setup], setup.settings))


def further(overrides: list[str]) -> list[str]:
    """Return the overrides that a setup names: those that change what a run computes and have no column, sorted."""
    keys = {text: key_of(text) for text in overrides}
    return sorted(text for text, key in keys.items() if key not in KNOWN and text != SAME and not is_location(key))


def _short(commit: str) -> str:
    """A commit's first characters, and whether files had been changed since."""
    return commit[:10] + "-dirty" * commit.endswith("-dirty")


def _number(value: object, unknown: float = float("nan")) -> float:
    """A number of a run's files, which may hold anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MOST else unknown  # type: ignore[arg-type, operator]
