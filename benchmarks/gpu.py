"""On a GPU, in at most eight minutes: how close a step comes to a bare graph, what a run takes, and what it reaches.

python benchmarks/gpu.py [PART ...] [device=cuda] [seconds=480] [results=FOLDER] [limits=off] [key=value ...]

The parts, in order: step, sync, stream, speedrun, best, article; without names all of them, of which the last may get
no time. Where a GPU is at hand for some minutes, `article seconds=330` first trains the article's six runs of seed 0;
`sync step speedrun best budgets=30 seconds=330` measures the rest. Each value is printed when it is known, and its row
appended to gpu_rows.csv in benchmarks/results; what has a row of this machine, commit and settings is skipped, so the
script can be stopped and started again. Each part is a process of its own with a time limit, the last one of all that
is left: one that fails or is late prints a line, after the end of its errors, and the next goes on; `limits=off` runs
them in this process. Other keys are settings of fastconv.train for all parts. The data sets are looked for in
FASTCONV_DATA. Needs the source tree (with PYTHONPATH=. where fastconv is not installed), torch, torchvision and the
pure-Python packages of requirements.lock. With device=cpu and a small network it can be tried anywhere.
"""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import article as whole
import lightning as L
import torch
from bare_loop import BareLoop, GraphLoop, Pairs, measure_pairs, plan, train_with
from limited_process import in_time
from measurements import RESULTS, append, describe_device, describe_versions, forget_benchmarks, network_of, read
from rich.console import Console

from fastconv.config.resume import RunFolder
from fastconv.runs.results import Results, git_commit
from fastconv.training import fit as training

ROWS = "gpu_rows.csv"
# Seconds that a part is stopped after if others follow it, and that are left for it at least.
LIMITS = {"step": 110, "sync": 50, "stream": 60, "speedrun": 90, "best": 190, "article": 240}
LEAST_SECONDS = 10
WHOLE_RUN = ("figures=false", "checkpoint.save=false", "validate.on=none")


@dataclass(frozen=True)
class Options:
    """What the command line asks for; the numbers are for a GPU."""

    parts: tuple[str, ...] = ()
    device: str = "cuda"
    seconds: float = 480.0
    results: Path = RESULTS
    limits: bool = True
    settings: tuple[str, ...] = ()
    dataset: str = "cifar10"
    pairs: int = 5
    group: int = 50
    warm_up: int = 20
    steps: int = 100
    seeds: int = 10
    budgets: tuple[str, ...] = ("30", "100")
    article: tuple[str, ...] = ("seeds=0", "epochs=25", "heatmaps=none")

    @classmethod
    def read(cls, arguments: tuple[str, ...]) -> "Options":
        """Read the command line. Raises SystemExit for a part that there is not."""
        found: dict[str, object] = {"parts": tuple(each for each in arguments if "=" not in each)}
        if unknown := set(found["parts"]) - set(LIMITS):
            raise SystemExit(f"there is no part {min(unknown)}: give some of {', '.join(LIMITS)}")
        readers: dict[str, Callable[[str], object]] = {
            "device": str, "seconds": float, "results": Path, "limits": lambda text: text != "off", "dataset": str,
            "pairs": int, "group": int, "warm_up": int, "steps": int, "seeds": int,
            "budgets": lambda text: tuple(text.split(",")), "article": lambda text: tuple(text.split()),
        }  # fmt: skip
        settings = []
        for name, _, value in (each.partition("=") for each in arguments if "=" in each):
            if name in readers:
                found[name] = readers[name](value)
            else:
                settings.append(f"{name}={value}")
        return cls(**found, settings=tuple(settings))

    @property
    def every(self) -> list[str]:
        """Settings of every run."""
        return [f"trainer.accelerator={'gpu' if self.device == 'cuda' else self.device}", *self.settings]


@dataclass
class Rows:
    """The values that were measured, by part and name."""

    options: Options
    about: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        settings = " ".join([self.options.dataset, *self.options.settings])
        device = describe_device() if self.options.device == "cuda" else self.options.device
        self.about = {"settings": settings, "device": device, "versions": describe_versions()}
        self.about["git_commit"] = str(git_commit())

    def lack(self, part: str, *names: str) -> bool:
        """Whether one of these values is still to be measured."""
        rows = [row for row in read(self.options.results / ROWS) if self.about.items() <= row.items()]
        return not set(names) <= {row["name"] for row in rows if row["part"] == part}

    def add(self, part: str, name: str, value: float, unit: str, note: str = "") -> None:
        """Print a value and append its row."""
        print(f"{part}: {name} {value:.6g} {unit}{note and f' ({note})'}", flush=True)
        row = {"part": part, "name": name, "value": f"{value:.6g}", "unit": unit, "note": note}
        append(self.options.results / ROWS, {**row, **self.about, "date": time.strftime("%Y-%m-%d")})


def step(options: Options, rows: Rows) -> None:
    """The run's own step against the same arithmetic as a bare graph, in turn within one process."""
    names = ("fastconv", "bare graph", "fastconv / bare graph")
    if not rows.lack("step", *names):
        return
    loop = GraphLoop if options.device == "cuda" else BareLoop
    given = [f"dataset={options.dataset}", "checkpoint.save=false", *_stream(options), *options.every]
    found = measure_pairs(given, options.pairs, options.group, options.warm_up, loop=loop)
    values = found["fastconv"], found["bare loop"], found["fastconv"] / found["bare loop"]
    for name, value, unit in zip(names, values, ("images/s", "images/s", "times"), strict=True):
        rows.add("step", name, value, unit, f"{found.get('graphs', 0):g} graphs" if name == "fastconv" else "")


class NoSynchronisation(L.Callback):
    """Makes torch raise an error where the host would wait for the GPU, from one step to another."""

    def __init__(self, first: int, last: int, forbid: Callable[[bool], None]) -> None:
        self.first, self.last, self.forbid, self.checked = first, last, forbid, 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx == self.first:
            self.forbid(True)
        if batch_idx == self.last:
            self.forbid(False)
            self.checked = self.last - self.first

    def on_exception(self, *_: object) -> None:
        self.forbid(False)


def sync(options: Options, rows: Rows) -> None:
    """100 steps within which the host never waits."""
    if not rows.lack("sync", "steps without waiting"):
        return

    def forbid(whether: bool) -> None:
        if options.device == "cuda":
            torch.cuda.set_sync_debug_mode("error" if whether else "default")

    last = options.warm_up + options.steps
    run = plan(*_short(options), *_stream(options), "trainer.compile=false", max_steps=last + 2)
    check = NoSynchronisation(options.warm_up, last, forbid)
    train_with(run, check, [])
    rows.add("sync", "steps without waiting", check.checked, "steps")


def stream(options: Options, rows: Rows) -> None:
    """The step with each stream, and how a graph and called steps compare."""
    for name, more in {
        "stream=device": ("stream=device",),
        "stream=precomputed": ("stream=precomputed",),
        "stream=device, steps called": ("stream=device", "trainer.graph=off"),
    }.items():
        if not rows.lack("stream", name):
            continue
        steps = options.warm_up + options.pairs * options.group + 1
        run = plan(*_short(options), "trainer.compile=false", *more, max_steps=steps)
        timer = Pairs(run, options.group, options.warm_up, others={})
        results = train_with(run, timer, [])
        rate = median(rate for rate, _ in timer.found)
        rows.add("stream", name, rate, "images/s", f"{results.cuda_graphs} graphs")


def _short(options: Options) -> list[str]:
    given = [f"dataset={options.dataset}", *options.every, "schedule.max_epochs=1", "budget.seconds=null"]
    return [*given, *WHOLE_RUN]


def _stream(options: Options) -> list[str]:
    """The stream that runs on a GPU have, unless another one is asked for."""
    return [] if any(each.startswith("stream=") for each in options.settings) else ["stream=auto"]


def speedrun(options: Options, rows: Rows) -> None:
    """The seeds of the speed record, whose batches a GPU takes whole."""
    micro = [] if any(each.startswith("micro_batch_size=") for each in options.settings) else ["micro_batch_size=2000"]
    for seed in range(options.seeds):
        name = f"accuracy_tta, seed {seed}"
        if not rows.lack("speedrun", name):
            continue
        torch._dynamo.reset()
        given = [f"dataset={options.dataset}", "experiment=speedrun", f"seed={seed}", *micro, *options.every]
        given += WHOLE_RUN
        run = plan(*given)
        with tempfile.TemporaryDirectory() as folder:
            found = training.fit(run, Console(quiet=True), RunFolder(Path(folder), run.config, resumed=False), given)
        counted = sum(found.seconds[segment] for segment in ("precompute", "train", "test"))
        rows.add("speedrun", f"seconds, seed {seed}", counted, "s", _seconds(found))
        rows.add("speedrun", name, 100 * found.accuracy_tta, "%")


def best(options: Options, rows: Rows) -> None:
    """experiment=best in each budget, from the start of its process, with nothing measured before."""
    for budget in options.budgets:
        name = f"accuracy_tta, {budget} s"
        if not rows.lack("best", name):
            continue
        forget_benchmarks()
        with tempfile.TemporaryDirectory() as outputs:
            given = [f"dataset={options.dataset}", "experiment=best", f"budget.seconds={budget}", *options.every]
            given += [f"outputs={outputs}", f"stream.root={outputs}/streams", "figures=false"]
            train(*given)
            found = Results.read(next(Path(outputs, options.dataset).iterdir()))
        for segment in ("benchmark", "compile", "train"):
            rows.add("best", f"{segment}, {budget} s", found.seconds[segment], "s")
        rows.add("best", f"counted, {budget} s", found.seconds_counted, "s", _seconds(found))
        rows.add("best", name, 100 * found.accuracy_tta, "%", f"{network_of(found)}, {found.epochs:.1f} epochs")


def article(options: Options, rows: Rows) -> None:
    """The article's runs on its data sets with and without augmentation, which have rows of their own."""
    own = [f"results={options.results / 'article'}"] if options.results != RESULTS else []
    whole.main(*options.article, *own, *options.every)


def train(*overrides: str) -> None:
    """Train in a process of its own."""
    subprocess.run([sys.executable, "-m", "fastconv.train", *overrides], check=True, stdout=subprocess.DEVNULL)


def _seconds(found: Results) -> str:
    return " ".join(f"{name} {seconds:.2f}" for name, seconds in found.seconds.items() if seconds >= 0.005)


PARTS = {part.__name__: part for part in (step, sync, stream, speedrun, best, article)}


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(*arguments: str) -> None:
    options = Options.read(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; benchmarks/step.py measures the CPU")
    began, passed_on = time.monotonic(), [each for each in arguments if "=" in each]
    names = options.parts or tuple(PARTS)
    for name in names:
        if not options.limits:
            PARTS[name](options, Rows(options))
            continue
        left = options.seconds - (time.monotonic() - began)
        if name != names[-1]:
            left = min(LIMITS[name], left)
        if left < LEAST_SECONDS:
            print(f"{name}: no time is left for it", flush=True)
            continue
        command = [sys.executable, __file__, name, *passed_on, "limits=off"]
        if failure := in_time(command, left):
            print(f"{name}: {failure}", flush=True)


if __name__ == "__main__":
    if "limits=off" not in sys.argv:
        signal.signal(signal.SIGTERM, _stop)  # ends the part that runs, too
    main(*sys.argv[1:])
