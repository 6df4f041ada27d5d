"""The article's experiment, run by run, on any machine: python benchmarks/article.py [page] [name=value ...]

DavidNet by the article's recipe on its three data sets, with and without augmentation: 25 epochs with each seed, then
2, 6 and 12. Each finished run adds its row to benchmarks/results/article at once, with its small files; when all runs
of a seed are there, the measures of their heatmaps follow. At the end, or when Ctrl-C or SIGTERM stops it, it writes
article.html there and docs/article.md of all rows; `page` does that alone. What has a row of this machine is skipped
and a stopped run goes on from its checkpoint, so it can be stopped and started again, or go on elsewhere: take
benchmarks/results/article along, and outputs/article for a run that was stopped or whose heatmaps are missing. Rows of
several machines can be put together in one file.

  seeds=0,1,2  datasets=cifar10,fashion_mnist,mnist  epochs=25,2,6,12    what to run, in this order of worth
  heatmaps=25,2      epochs of the runs whose heatmaps are measured; none for no heatmaps
  elsewhere=skip     skip what has a row of another machine, too
  results=FOLDER     a folder of its own for rows, page and runs: everything is measured anew
  explain.KEY=VALUE  a setting of fastconv.explain

Other settings are those of fastconv.train, such as model.width=32; rows with other settings, of another width, number
of epochs or machine are kept apart in every table. By the speed of its step, a run of width 64 and 25 epochs takes
about half a minute on an H100. On a GPU the images are augmented there (stream=auto), and the step is not compiled
unless it is asked for: compiling takes longer than so short a run can win.
"""

import gc
import importlib
import json
import shutil
import sys
import time
from itertools import groupby
from pathlib import Path
from unittest import mock

import torch
from article_options import Options
from article_pages import figures_folder, small_files, write_pages
from measurements import append, describe_versions, finished_run

from fastconv.analysis.article.figures import AUGMENTED, EFFECTS
from fastconv.analysis.article.rows import Measure, Row, as_line, further, measures_of, read_rows, row_of
from fastconv.config.quoting import literally
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.names import file_name
from fastconv.system.signals import SIGNALS, Interrupted, listening

# By whether a run is augmented: the option of `augment`.
AUGMENT = {True: "standard", False: "none"}
# On a GPU: the same images and, but for rounding, the same steps as without, made in less time.
FASTER = ("stream=auto", "trainer.compile=false")
GOES_ON = "article: stopped; the same command goes on"


class Article:
    """The rows that there are, and the runs that are missing. Raises InputError for a table that cannot be read."""

    def __init__(self, options: Options) -> None:
        self.options, self.results = options, options.rows
        self.rows: list[Row] = read_rows(Row, self.results / "rows.csv")
        self.measures: list[Measure] = read_rows(Measure, self.results / "measures.csv")
        self.failed = False

    def make(self) -> None:
        """Train what is missing, and measure its heatmaps: those of a seed when all its runs have rows."""
        for (epochs, seed), jobs in groupby(self.options.jobs(), key=lambda job: job[:2]):
            datasets = [job[2] for job in jobs]
            for dataset in datasets:
                self.train_pair(epochs, seed, dataset)
            for dataset in datasets if epochs in self.options.listed("heatmaps") else ():
                self.explain_pair(epochs, seed, dataset)

    def find(self, epochs: str, seed: int, dataset: str, augmented: bool) -> Row | None:
        """The row of a run, of this machine unless others count too."""
        wanted = (float(epochs), seed, dataset, augmented, self.options.width, " ".join(further(self.options.train)))
        precision = self.options.given("trainer.precision")
        for row in self.rows:
            found = (row.max_epochs, row.seed, row.dataset, row.augmented, row.width, row.settings)
            is_here = self.options.elsewhere == "skip" or row.device == self.options.device
            if found == wanted and is_here and precision in ("", "auto", row.precision):
                return row
        return None

    def outputs(self, epochs: str, seed: int, augmented: bool) -> Path:
        """The folder of the runs of all data sets."""
        name = file_name("-".join((AUGMENT[augmented], epochs, str(seed), *self.options.train)))
        return self.options.outputs / name

    def kept(self, run: Path | None) -> Row | None:
        """The row of a run's folder."""
        return next((row for row in self.rows if run and row.run == run.name), None)

    def train_pair(self, epochs: str, seed: int, dataset: str) -> None:
        """Train what is missing of a pair of runs."""
        shows = self.is_first(epochs, seed)
        for augmented in (True, False):
            outputs = self.outputs(epochs, seed, augmented)
            run = finished_run(outputs, dataset)
            if self.find(epochs, seed, dataset, augmented) or self.kept(run):
                continue
            if run is None:
                settings = [f"dataset={dataset}", f"augment={AUGMENT[augmented]}", f"seed={seed}"]
                settings += ["experiment=original", f"schedule.max_epochs={epochs}", "budget.seconds=null"]
                if torch.cuda.is_available():
                    settings += [each for each in FASTER if not self.options.given(each.partition("=")[0])]
                other = self.find(epochs, seed, dataset, not augmented)
                if other and not self.options.given("trainer.precision"):
                    settings.append(f"trainer.precision={other.precision}")  # else the two would be no pair
                settings += self.options.train
                settings += [
                    f"figures={str(shows and augmented).lower()}",
                    f"outputs={literally(outputs)}",
                    "resume=auto",
                ]
                in_process("train", *settings)
                run = finished_run(outputs, dataset)
                if run is None:
                    raise InputError(f"{outputs} has no finished run of {dataset}: see above")
            self.keep(run, shows)

    def explain_pair(self, epochs: str, seed: int, dataset: str) -> None:
        """Measure the heatmaps of a pair whose runs are here, unless it is done. A failure does not end the program."""
        folders = {augmented: finished_run(self.outputs(epochs, seed, augmented), dataset) for augmented in AUGMENT}
        pair = [self.kept(folders[augmented]) for augmented in (False, True)]
        if None in pair or pair[0].setup != pair[1].setup:
            return
        try:
            self.explain(pair, folders, self.is_first(epochs, seed))
        except SystemExit as end:
            if end.code != 1:
                raise
            print(f"{dataset}, seed {seed}, {epochs} epochs: no heatmaps, for the reason above", flush=True)
            self.failed = True

    def is_first(self, epochs: str, seed: int) -> bool:
        """Whether figures show this run: of a call, those of the first number of epochs and seed."""
        return next((each[:2] for each in self.options.jobs()), None) == (epochs, seed)

    def keep(self, run: Path, shows: bool) -> None:
        """Add a finished run's row, and keep its small files."""
        results = Results.read(run)
        here = self.options.device
        row = row_of(results, run.name, here if (results.device or "") in here else None)
        kept = small_files(self.results, row)
        kept.mkdir(parents=True, exist_ok=True)
        content = json.loads((run / "results.json").read_text())
        # Where the run's files lay is of no interest to a reader of the table.
        content["overrides"] = [each for each in content["overrides"] if not each.startswith(("outputs=", "resume="))]
        (kept / "results.json").write_text(json.dumps(content, indent=1) + "\n")
        shutil.copy(run / "metrics.csv", kept / "metrics.csv")
        if shows:
            shown = figures_folder(self.results, row.setup, row.dataset)
            shown.mkdir(exist_ok=True)
            if (run / AUGMENTED).exists() and not (shown / AUGMENTED).exists():
                shutil.copy(run / AUGMENTED, shown / AUGMENTED)
        about = {"date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
        append(self.results / "rows.csv", as_line(row) | about)
        self.rows.append(row)

    def explain(self, pair: list[Row], folders: dict[bool, Path], shows: bool) -> None:
        """Measure the heatmaps of a pair of runs, unless it is done, and keep the figures of a pair that is shown."""
        one = pair[0]
        if any((each.setup, each.dataset, each.seed) == (one.setup, one.dataset, one.seed) for each in self.measures):
            return
        report = folders[False].parent.parent.absolute() / f"explain-{file_name(one.dataset)}"
        places = {"run": folders[False], "against": folders[True], "folder": report}
        in_process("explain", *(f"{key}={literally(path.absolute())}" for key, path in places.items()),
                   *self.options.explain)  # fmt: skip
        shown = figures_folder(self.results, one.setup, one.dataset)
        shown.mkdir(parents=True, exist_ok=True)
        for name in EFFECTS.values() if shows else ():
            if (report / name).exists() and not (shown / name).exists():
                shutil.copy(report / name, shown / name)
        if found := measures_of(report, pair):
            append(self.results / "measures.csv", *map(as_line, found))
            self.measures += found


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
    """Raises SystemExit with a line for what cannot work, and with the code of a signal that ends it."""
    try:
        article = Article(Options.read(tuple(each for each in arguments if each != "page")))
        with listening():
            try:
                if "page" not in arguments:
                    article.make()
            finally:
                write_pages(article.options, article.rows, article.measures)
    except InputError as error:
        raise SystemExit(f"article: {error}") from None
    except Interrupted as end:
        print(GOES_ON, file=sys.stderr)
        raise SystemExit(end.exit_code) from None
    except SystemExit as end:
        if end.code in (128 + number for number in SIGNALS):
            print(GOES_ON, file=sys.stderr)
        raise
    if article.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
