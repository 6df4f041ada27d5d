"""Rows of the article's experiment: finished runs, and measures of their heatmaps, as a table keeps them."""

import csv
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.runs.hparams import is_augmented, is_location
from fastconv.runs.results import FINISHED, Results
from fastconv.system.wording import measured

# Overrides that have a column of their own, that every run of the experiment has, or that change results by less than
# 1e-5: Winograd's convolutions and the number of threads.
KNOWN = (
    "dataset", "augment", "seed", "experiment", "model.width", "schedule.max_epochs", "budget.seconds",
    "trainer.precision", "trainer.winograd", "trainer.num_threads",
)  # fmt: skip
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
        network = f"DavidNet of width {self.width}" if self.width else "another network"
        return ", ".join(filter(None, (epochs, network, f"{self.device} ({self.precision})", self.settings)))


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
        dataset=str(hparams.get("dataset.name") or results.dataset),
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
        commit=(results.git_commit or "")[:10],
        ended_by=results.stop_reason,
        run=run,
    )


def measures_of(report: Path, rows: Iterable[Row]) -> list[Measure]:
    """Read the measures of a report of heatmaps for the runs that have a row; none without a readable table."""
    by_run, found = {row.run: row for row in rows}, []
    try:
        with (report / "measures.csv").open(newline="", encoding="utf-8") as file:
            for each in csv.DictReader(file):
                if (row := by_run.get(each["run"])) is not None:
                    value = each["median" if each["measure"] == "gap" else "mean"]
                    found.append(
                        Measure(row.dataset, row.augmented, row.seed, each["method"], each["measure"], float(value),
                                int(each["n"]), *_setup_of(row), float(each["sd"]))
                    )  # fmt: skip
    except (OSError, ValueError, KeyError):
        return []
    return found


def stored(kind: type[Any], texts: Mapping[str, str]) -> Any:
    """Return the `Row` or `Measure` that a line of a table keeps; columns that it does not have are ignored."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in texts:
            text = texts[field.name]
            values[field.name] = text == "yes" if field.type is bool else field.type(text)  # type: ignore[operator]
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


def _setup_of(row: Row) -> tuple[float, str, str, int, str]:
    return row.max_epochs, row.device, row.precision, row.width, row.settings


def further(overrides: list[str]) -> list[str]:
    """Return the overrides that a setup names: those that change what a run computes and have no column, sorted."""
    keys = {text: text.lstrip("+~").partition("=")[0] for text in overrides}
    return sorted(text for text, key in keys.items() if key not in KNOWN and not is_location(key))


def _number(value: object, unknown: float = float("nan")) -> float:
    """A number of a run's files, which may hold anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MOST else unknown  # type: ignore[arg-type, operator]
