"""The experiment of `fastconv.explain`: attribution maps of trained runs on the same images."""

import functools
import itertools
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastconv.analysis.attribution.attribution_run import MEASURE_PARTS, AttributionRun, ExplainedRun
from fastconv.analysis.attribution.network import PixelNetwork, Pixels, predict
from fastconv.analysis.attribution.pairing import names_of, require_alike
from fastconv.analysis.attribution.samples import Samples, choose, read_files
from fastconv.analysis.checkpoint import load_run
from fastconv.analysis.run_images import images_of, untrained_on
from fastconv.budget.hardware import prepare
from fastconv.config.commands import Explain
from fastconv.config.schema import Trainer
from fastconv.config.store import methods
from fastconv.data.image_names import image_names
from fastconv.data.sources.patterns import matching
from fastconv.system.errors import InputError
from fastconv.system.wording import counted


@dataclass(frozen=True)
class Explanation:
    """Runs explained on the same images: the groups `run` and `against`, which may be empty, and their names."""

    first: list[ExplainedRun]
    second: list[ExplainedRun]
    names: tuple[str, ...]
    samples: Samples
    titles: dict[str, str]
    """Of the methods, by name."""
    has_background: bool
    load_seconds: float

    @property
    def groups(self) -> list[tuple[str, list[ExplainedRun]]]:
        """The name and the runs of each group."""
        return list(zip(self.names, (self.first, self.second), strict=False))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.first[0].run.classes


def explain_runs(config: Explain, console: Console) -> Explanation:
    """Read runs, choose images and explain each run on them.

    Raises InputError for runs that cannot be read or do not fit together, for images that cannot be read, and for
    methods that do not work on the networks.
    """
    started = time.perf_counter()
    first, second = config.folders()
    device = torch.device(prepare(Trainer(accelerator=config.accelerator)).kind)
    runs = [load_run(folder, config.trust) for folder in (*first, *second)]
    require_alike(runs[: len(first)], runs[len(first) :])
    with_images = runs[0].with_images(config.dataset)
    data = with_images.data_folder(config.data)
    splits, warnings = images_of(with_images, data)
    test = splits.test if config.images is not None else untrained_on(splits.test, runs)
    if left_out := len(splits.test) - len(test):
        those = counted(left_out, "test image is", "test images are")
        warnings.append(f"{those} left out: another of the runs was trained on them.")
    if not len(test):
        raise InputError("each test image is a training image of some of the runs: give runs with the same split")
    for line in warnings:
        console.print(line)
    pixels = Pixels.of(splits.train.images)
    if config.images is not None:
        paths = config.images if isinstance(config.images, list) else [config.images]
        matches = (matching(str(path), "images") for path in paths)
        samples = read_files(list(itertools.chain(*matches)), runs[0].shape, runs[0].levels, runs[0].resize)
    else:
        network = PixelNetwork(runs[0].model, runs[0].mean, runs[0].std).to(device)
        samples = choose(
            test,
            functools.partial(predict, network, temperature=runs[0].temperature),
            per_class=config.per_class,
            errors=config.errors,
            correct=config.correct,
            candidates=config.candidates,
            seed=config.seed,
            names=functools.partial(
                image_names, with_images.config.dataset, data, with_images.config.own_folders(), test
            ),
        )
    wanted = methods(config)
    count = len(samples) + (MEASURE_PARTS * len(samples.measured) if config.measures else 0)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        load_seconds = time.perf_counter() - started
        task = progress.add_task("", total=len(runs) * len(wanted) * count)

        def advance(part: str, images: int) -> None:
            progress.update(task, advance=images, description=part)

        # All methods are tried on all networks before the first long computation.
        attribution_runs = [
            AttributionRun(run, samples, pixels, wanted, config, device, on_images=advance) for run in runs
        ]
        explained = [each.carry_out() for each in attribution_runs]
    names = tuple(config.names or names_of(runs[0], runs[len(first)] if second else None))
    titles = {name: method.title or method.captum for name, method in wanted.items()}
    return Explanation(
        explained[: len(first)], explained[len(first) :], names, samples, titles, pixels.has_background, load_seconds
    )
