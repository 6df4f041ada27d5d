"""The article's experiment, run by run, on any machine: python benchmarks/article.py [page] [name=value ...]

DavidNet by the article's recipe on its three data sets, with and without augmentation: 25 epochs with each seed, then
2, 6 and 12. Each finished run adds its row to benchmarks/results/article at once, with its small files; each pair of
runs then adds the measures of its heatmaps. At the end, or when it is stopped, it writes article.html there and
docs/article.md of all rows; `page` does that alone. What has a row of this machine is skipped and a stopped run goes
on from its checkpoint, so it can be stopped and started again, or go on elsewhere: take benchmarks/results/article
along, and outputs/article for a run that was stopped.

  seeds=0,1,2  datasets=cifar10,fashion_mnist,mnist  epochs=25,2,6,12    what to run, in this order of worth
  heatmaps=25,2      epochs of the runs whose heatmaps are measured; none for no heatmaps
  elsewhere=skip     skip what has a row of another machine, too
  results=FOLDER     a folder of its own for rows, page and runs: everything is measured anew
  explain.KEY=VALUE  a setting of fastconv.explain

Other settings are those of fastconv.train, such as model.width=32; rows with other settings, of another width, number
of epochs or machine are kept apart in every table. By the speed of its step, a run of width 64 and 25 epochs takes
about half a minute on an H100.
"""

import gc
import importlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from measurements import RESULTS, append, describe_device, describe_versions, finished_run, read

from fastconv.analysis.article.claims import LAYERS
from fastconv.analysis.article.figures import AUGMENTED, EFFECTS, draw_curves, figures_of
from fastconv.analysis.article.page import Section, sections, write_html
from fastconv.analysis.article.rows import Measure, Row, Setup, as_line, further, measures_of, row_of, setups, stored
from fastconv.config.quoting import literally
from fastconv.runs.results import Results
from fastconv.system.names import file_name

LENGTHS = {"cifar10": ("25", "2", "6", "12"), "fashion_mnist": ("25", "2", "6", "12"), "mnist": ("25", "2")}
WIDTH = "64"
CURVES = "curves.png"
PAGE = RESULTS.parent.parent / "docs" / "article.md"


@dataclass
class Options:
    """What the command line asks for."""

    seeds: str = "0,1,2"
    datasets: str = ",".join(LENGTHS)
    epochs: str = ""
    heatmaps: str = "25,2"
    elsewhere: str = ""
    results: str = ""
    explain: list[str] = field(default_factory=list)
    train: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, arguments: tuple[str, ...]) -> "Options":
        options = cls()
        for argument in arguments:
            name, _, value = argument.partition("=")
            if name.startswith("explain."):
                options.explain.append(argument.removeprefix("explain."))
            elif name in cls.__dataclass_fields__ and name not in ("explain", "train"):
                setattr(options, name, value)
            else:
                options.train.append(argument)
        return options

    def jobs(self) -> Iterator[tuple[str, int, str]]:
        """Epochs, seed and data set of each pair of runs, those of most worth first."""
        datasets, given = self.datasets.split(","), tuple(filter(None, self.epochs.split(",")))
        lengths = {name: given or LENGTHS.get(name, ("25",)) for name in datasets}
        for epochs in dict.fromkeys(each for some in lengths.values() for each in some):
            for seed in map(int, self.seeds.split(",")):
                yield from ((epochs, seed, name) for name in datasets if epochs in lengths[name])

    @property
    def width(self) -> int:
        return int(self.given("model.width") or WIDTH)

    def given(self, key: str) -> str:
        """The value of a setting of fastconv.train; empty if it is not given."""
        return next((each.partition("=")[2] for each in self.train if each.startswith(f"{key}=")), "")

    @property
    def rows(self) -> Path:
        """The folder of the rows and of what belongs to them."""
        return Path(self.results) if self.results else RESULTS / "article"

    @property
    def outputs(self) -> Path:
        """The folder of the runs."""
        return self.rows / "runs" if self.results else Path("outputs/article")

    @property
    def page(self) -> Path:
        """The file of the page of docs."""
        return self.rows / "article.md" if self.results else PAGE


class Article:
    """The rows that there are, and the runs that are missing."""

    def __init__(self, options: Options) -> None:
        self.options, self.results = options, options.rows
        self.rows: list[Row] = [stored(Row, line) for line in read(self.results / "rows.csv")]
        self.measures: list[Measure] = [stored(Measure, line) for line in read(self.results / "measures.csv")]

    def find(self, epochs: str, seed: int, dataset: str, augmented: bool) -> Row | None:
        """The row of a run, of this machine unless others count too."""
        wanted = (float(epochs), seed, dataset, augmented, self.options.width, " ".join(further(self.options.train)))
        precision = self.options.given("trainer.precision")
        for row in self.rows:
            found = (row.max_epochs, row.seed, row.dataset, row.augmented, row.width, row.settings)
            is_here = self.options.elsewhere == "skip" or row.device == describe_device()
            if found == wanted and is_here and precision in ("", "auto", row.precision):
                return row
        return None

    def train_pair(self, epochs: str, seed: int, dataset: str) -> None:
        """Train what is missing of a pair of runs, and measure their heatmaps."""
        folders, shows = {}, self.is_first(epochs, seed)
        for augment in ("standard", "none"):
            augmented = augment != "none"
            outputs = Path(self.options.outputs, file_name("-".join((augment, epochs, str(seed), *self.options.train))))
            if self.find(epochs, seed, dataset, augmented) is None:
                settings = [f"dataset={dataset}", f"augment={augment}", f"seed={seed}", "experiment=original"]
                settings += [f"schedule.max_epochs={epochs}", "budget.seconds=null", *self.options.train]
                settings += [
                    f"figures={str(shows and augmented).lower()}",
                    f"outputs={literally(outputs)}",
                    "resume=auto",
                ]
                if finished_run(outputs, dataset) is None:
                    in_process("train", *settings)
                self.keep(finished_run(outputs, dataset), shows)
            folders[augmented] = finished_run(outputs, dataset)
        pair = [self.find(epochs, seed, dataset, augmented) for augmented in (False, True)]
        if epochs in self.options.heatmaps.split(",") and all(folders.values()) and pair[0].setup == pair[1].setup:
            self.explain(pair, folders, shows)

    def is_first(self, epochs: str, seed: int) -> bool:
        """Whether figures show this run: of a call, those of the first number of epochs and seed."""
        return next((each[:2] for each in self.options.jobs()), None) == (epochs, seed)

    def keep(self, run: Path, shows: bool) -> None:
        """Add a finished run's row, and keep its small files."""
        results = Results.read(run)
        here = describe_device()
        row = row_of(results, run.name, here if (results.device or "") in here else None)
        shown = self.folder(row.setup) / file_name(row.dataset)
        ways = {False: "plain", True: "augmented"}
        folders = {way: shown.with_name(f"{shown.name}-{name}-{row.seed}") for way, name in ways.items()}
        kept = folders[row.augmented]
        kept.mkdir(parents=True, exist_ok=True)
        content = json.loads((run / "results.json").read_text())
        # Where the run's files lay is of no interest to a reader of the table.
        content["overrides"] = [each for each in content["overrides"] if not each.startswith(("outputs=", "resume="))]
        (kept / "results.json").write_text(json.dumps(content, indent=1) + "\n")
        shutil.copy(run / "metrics.csv", kept / "metrics.csv")
        if shows:
            shown.mkdir(exist_ok=True)
            if (run / AUGMENTED).exists() and not (shown / AUGMENTED).exists():
                shutil.copy(run / AUGMENTED, shown / AUGMENTED)
        about = {"date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
        append(self.results / "rows.csv", as_line(row) | about)
        self.rows.append(row)
        if shows and not (shown / CURVES).exists() and all(folder.exists() for folder in folders.values()):
            draw_curves(folders, row.dataset, shown / CURVES)

    def explain(self, pair: list[Row], folders: dict[bool, Path], shows: bool) -> None:
        """Measure the heatmaps of a pair of runs, unless it is done, and keep the figures of a pair that is shown."""
        one = pair[0]
        if any((each.setup, each.dataset, each.seed) == (one.setup, one.dataset, one.seed) for each in self.measures):
            return
        report = folders[False].parent.parent.absolute() / f"explain-{file_name(one.dataset)}"
        places = {"run": folders[False], "against": folders[True], "folder": report}
        in_process("explain", *(f"{key}={literally(path.absolute())}" for key, path in places.items()),
                   *self.options.explain)  # fmt: skip
        shown = self.folder(one.setup) / file_name(one.dataset)
        for name in EFFECTS.values() if shows else ():
            if (report / name).exists() and not (shown / name).exists():
                shutil.copy(report / name, shown / name)
        for measure in measures_of(report, pair):
            append(self.results / "measures.csv", as_line(measure))
            self.measures.append(measure)

    def folder(self, setup: Setup) -> Path:
        """The folder of a setup's small files."""
        text = f"{setup.max_epochs:g} epochs width {setup.width} {setup.device} {setup.precision} {setup.settings}"
        return self.results / re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")

    def shown(self) -> dict[str, tuple[str, Path]]:
        """By heading: each data set, and the folder of its figures. They are of the first setup that has a pair."""
        every, found = setups(self.rows), {}
        for name in dict.fromkeys(row.dataset for row in self.rows):
            of_name = [each for each in every if any((row.setup, row.dataset) == (each, name) for row in self.rows)]
            places = {setup: self.folder(setup) / file_name(name) for setup in of_name}
            setup = next((each for each, place in places.items() if (place / CURVES).exists()), of_name[0])
            found[f"{name}: {setup}" if len(every) > 1 else name] = (name, places[setup])
        return found

    def write_pages(self) -> None:
        """Write article.html, and the same in short as a page of docs."""
        if not self.rows:
            print("no run is finished yet: there is no page to write")
            return
        figures = {}
        for heading, (name, at) in self.shown().items():
            figures[heading] = figures_of(name, at / CURVES, at / AUGMENTED, at)
        command = " ".join(["python benchmarks/article.py", *self.options.train])
        for methods in (None, tuple(LAYERS)):
            parts = sections(self.rows, self.measures, figures, self.results / "epochs.png", {}, command, methods)
            if methods is None:
                write_html(self.results / "article.html", parts, [], self.rows)
            else:
                self.options.page.write_text(markdown(parts, self.results, self.options.page.parent))
        print(self.results / "article.html", self.options.page)


INTRODUCTION = """\
# The article's experiment

DavidNet by the article's recipe on its three data sets, with and without augmentation. `make article` trains the runs
that this machine lacks and writes this page, and [the same with all measures]({}) as one file. The results are in
[rows.csv]({}), the measures of the heatmaps in [measures.csv]({}).
"""


def markdown(parts: list[Section], results: Path, folder: Path) -> str:
    """The page as Markdown, for a file of a folder; `results` is the folder of the rows."""
    names = ("article.html", "rows.csv", "measures.csv")
    lines = [INTRODUCTION.format(*(os.path.relpath(results / name, folder) for name in names))]
    for part in parts:
        lines += [f"## {part.heading}", "", *(f"{as_code(note)}\n" for note in part.notes)]
        if part.table:
            lines += [row_text(part.table.header), "|" + " --- |" * len(part.table.header)]
            lines += [*map(row_text, part.table.rows), ""]
        for figure in part.figures:
            lines += [f"![{figure.alt}]({os.path.relpath(figure.path, folder)})", "", figure.caption, ""]
    return "\n".join(lines)


def row_text(cells: object) -> str:
    texts = [str(each).replace("|", "\\|") for each in cells]
    return f"| {' | '.join(map(as_code, texts))} |"


def as_code(text: str) -> str:
    """A command as code; any other text as it is."""
    return f"`{text}`" if text.startswith("python ") else text


def in_process(name: str, *arguments: str) -> None:
    """Run a command of fastconv in this process, which saves its imports and the start of a GPU.

    Raises SystemExit if it fails or is told to end.
    """
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()  # else it would count the networks of all runs as variants of one, and give up
    try:
        with mock.patch.object(sys, "argv", [name, *arguments]):
            importlib.import_module(f"fastconv.{name}").main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main(*arguments: str) -> None:
    article = Article(Options.read(tuple(each for each in arguments if each != "page")))
    try:
        for job in article.options.jobs() if "page" not in arguments else ():
            article.train_pair(*job)
    finally:
        article.write_pages()


if __name__ == "__main__":
    main(*sys.argv[1:])
