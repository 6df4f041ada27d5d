"""Measurements as rows of a csv, appended as they are made, and the table that is made of them.

A row holds one contender's value in one round. The contenders of a round are measured one after the other, so a ratio
within a round holds even where the machine's speed drifts; a table quotes the median of these ratios.
"""

import csv
import io
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch

from fastconv.analysis.comparison.statistics import summarise
from fastconv.budget.autotune.speed import network_name
from fastconv.budget.hardware import cpu_name
from fastconv.runs.results import FINISHED, Results, git_commit, versions

RESULTS = Path(__file__).parent / "results"


def append(path: Path, *rows: dict[str, object]) -> None:
    """Add rows to a csv, with its header if they are the first.

    They are written at once: a program that is stopped leaves all of them or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text("utf-8") if path.exists() else ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if before:
        writer.fieldnames = next(csv.reader(before.splitlines()))
        text.write("" if before.endswith("\n") else "\n")
    else:
        writer.writeheader()
    writer.writerows(rows)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def network_of(results: Results) -> str:
    """The network's name with its widths and the stride of its first layer."""
    settings = {"widths": results.hparams.get("model.widths") or [results.hparams["model.width"]]}
    settings["whitening_stride"] = results.hparams.get("model.whitening_stride", 1)
    return network_name(SimpleNamespace(name=results.model, **settings))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a csv; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def finished_run(folder: Path, dataset: str) -> Path | None:
    """The folder of a data set's finished run below `outputs=folder`; None if there is none."""
    for path in sorted(folder.glob(f"{dataset}/*/results.json")):
        results = Results.read(path.parent)
        if results.stop_reason in FINISHED and results.accuracy:
            return path.parent
    return None


def describe_device() -> str:
    """The GPU that fastconv would choose, else the processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else describe_processor()


def describe_processor() -> str:
    """Its name, cores, and its vector instructions: processors of one name can differ in these."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {vector_instructions()}"


def vector_instructions() -> str:
    """The best ones for convolutions that the processor has."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX-BF16"
    if torch.cpu._is_avx512_bf16_supported():
        return "AVX512-BF16"
    return torch.backends.cpu.get_cpu_capability()


def forget_benchmarks() -> None:
    """Delete cached speed profiles, proxies and flip tests, so that the next run measures anew."""
    shutil.rmtree(Path(os.environ.get("FASTCONV_DATA", "data"), "benchmarks"), ignore_errors=True)


def describe_versions() -> str:
    return " ".join(f"{name} {version}" for name, version in versions().items())


def provenance() -> dict[str, str]:
    """The columns of a row that say where, when and with which libraries it was measured."""
    return {"device": describe_device(), "date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}


def is_measured(path: Path, about: Mapping[str, str]) -> bool:
    """Whether a csv has a row with these values."""
    return any(about.items() <= row.items() for row in read(path))


def spread(values: Sequence[float], sign: str = "") -> str:
    """The mean ± standard deviation of several values, and each of them; a single value alone."""
    each, found = [f"{value:{sign}.2f}" for value in values], summarise(values)
    return f"{found.mean:{sign}.2f} ± {found.sd:.2f} ({', '.join(each)})" if len(each) > 1 else each[0]


def table_head(columns: Collection[str]) -> list[str]:
    """The first two lines of a table in Markdown."""
    return [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]


@dataclass(frozen=True)
class Table:
    """The measurements of a benchmark: `results/<name>.csv` row by row, `results/<name>.md` as a person reads them.

    Args:
        unit: of the values.
        ours: the contender that the others are compared with; None for a table that compares nothing.
        less_is_better: inverts the ratio, so that above 1 always means that ours is better.
    """

    name: str
    title: str
    unit: str
    ours: str | None = None
    less_is_better: bool = False
    device: str = field(default_factory=lambda: describe_device())
    folder: Path = RESULTS

    def rounds(self) -> dict[int, dict[str, float]]:
        """Values by round and contender, of this machine and these versions only."""
        found: dict[int, dict[str, float]] = {}
        for row in read(self.folder / f"{self.name}.csv"):
            if (row["device"], row["versions"]) == (self.device, describe_versions()):
                found.setdefault(int(row["round"]), {})[row["contender"]] = float(row["value"])
        return found

    def lacks(self, number: int, *contenders: str) -> bool:
        """Return whether a round still lacks one of the contenders, and so is to be measured."""
        return not set(contenders) <= set(self.rounds().get(number, {}))

    def add(self, number: int, contender: str, value: float) -> None:
        """Keep a measurement."""
        row = {"round": number, "contender": contender, "value": f"{value:.6g}", "unit": self.unit}
        about = {"device": self.device, "date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
        append(self.folder / f"{self.name}.csv", {**row, **about, "git_commit": git_commit()})

    def ratio(self, contender: str, ours: str | None = None) -> float:
        """Return the factor by which `ours` is better, the median over the rounds that have both."""
        ours = ours or self.ours
        values = [of for of in self.rounds().values() if {ours, contender} <= set(of)]
        return median(of[contender] / of[ours] if self.less_is_better else of[ours] / of[contender] for of in values)

    def show(self, counterparts: Mapping[str, str] | None = None, note: str = "") -> None:
        """Print and write the table.

        Args:
            counterparts: for contenders that are not to be compared with `ours`, what they are compared with.
        """
        rounds = self.rounds()
        columns = ["", f"median {self.unit}", "min", "max", "n"] + ["fastconv is better by"] * (self.ours is not None)
        lines = [f"# {self.title}", "", *table_head(columns)]
        for contender in dict.fromkeys(name for values in rounds.values() for name in values):
            values = [of[contender] for of in rounds.values() if contender in of]
            cells = [contender, *map(number, (median(values), min(values), max(values))), str(len(values))]
            if self.ours is not None:
                counterpart = (counterparts or {}).get(contender, self.ours)
                cells.append("" if counterpart == contender else f"{self.ratio(contender, counterpart):.3g}x")
            lines.append(f"| {' | '.join(cells)} |")
        about = f"{self.device}; {time.strftime('%Y-%m-%d')}; {describe_versions()}."
        method = "Ratios are medians over the rounds. " if self.ours is not None else ""
        text = "\n".join([*lines, "", " ".join(filter(None, [method + about, note]))]) + "\n"
        print(text)
        (self.folder / f"{self.name}.md").write_text(text)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
