"""Attribution maps of trained runs on the same images, and what they are worth."""

import functools
import glob
import itertools
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from fastconv.analysis.attribution.attribution import Attributor, attribute
from fastconv.analysis.attribution.metrics import (
    deletion_and_insertion,
    half_area,
    max_sensitivity,
    random_maps,
    randomised,
    rank_correlation,
    relative_infidelity,
    share_on,
)
from fastconv.analysis.attribution.network import PixelNetwork, Pixels, as_pixels, predict
from fastconv.analysis.attribution.pairing import names_of, require_alike
from fastconv.analysis.attribution.samples import Samples, choose, read_files
from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.budget.hardware import prepare
from fastconv.config.commands import Explain, Method
from fastconv.config.schema import Trainer
from fastconv.config.store import methods
from fastconv.data.sources.builtin import load
from fastconv.system.errors import InputError

# Standard deviation of the noise, as a share of the range of pixel values, under which a map should stay what it is.
REPEAT_NOISE = 0.02
# Pieces of work that measure a method.
PARTS = 5


@dataclass
class Explained:
    """What was found out about a run; N images of which n are measured, in the order of `Samples.measured`."""

    run: TrainedRun
    chances: np.ndarray
    """Class probabilities, float32 [N, classes]."""
    target: np.ndarray
    """The classes explained, int64 [N]."""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    """By method: signed attributions float32 [N, H, W]."""
    evidence: dict[str, np.ndarray] = field(default_factory=dict)
    """By method: how much each pixel matters, float32 [N, H, W]: the attributions, or the magnitude of a gradient (that
    a pixel should be darker is as much of a reason as that it should be brighter)."""
    measures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """By method and measure (a key of `fastconv.analysis.attribution.findings.MEASURES`): float64 [n or fewer]."""
    agreement: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """By pair of methods: rank correlation of their maps, float64 [n]."""
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By method: in how many rows and columns it tells places apart."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By part of the work."""

    @contextmanager
    def timed(self, part: str):
        """Count what happens inside for a part of the work."""
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Explanation:
    """Runs explained on the same images: those of `run`, those of `against` (or none), and what each is called."""

    first: list[Explained]
    second: list[Explained]
    names: tuple[str, ...]
    samples: Samples
    titles: dict[str, str]
    """Of the methods, by name."""
    has_background: bool
    load_seconds: float

    @property
    def sides(self) -> list[tuple[str, list[Explained]]]:
        """The name and the runs of each side."""
        return list(zip(self.names, (self.first, self.second), strict=False))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.first[0].run.classes


def explain_runs(config: Explain, console: Console) -> Explanation:
    """Read runs, choose images and examine each run on them.

    Raises InputError for runs that cannot be read or do not fit together, for images that cannot be read, and for
    methods that the networks do not allow.
    """
    started = time.perf_counter()
    first, second = config.folders()
    device = torch.device(prepare(Trainer(accelerator=config.accelerator)).kind)
    runs = [load_run(folder) for folder in (*first, *second)]
    require_alike(runs[: len(first)], runs[len(first) :])
    train, test = load(runs[0].config.dataset, Path(config.data))
    if test.classes != runs[0].classes or test.images.shape[1:] != runs[0].shape:
        raise InputError(f"{runs[0].folder} has other classes or images than {test.name}: its data set has changed")
    pixels = Pixels.of(train.images)
    if config.images is not None:
        paths = config.images if isinstance(config.images, list) else [config.images]
        matches = (sorted(glob.glob(str(path))) or [str(path)] for path in paths)
        samples = read_files(list(itertools.chain(*matches)), runs[0].shape)
    else:
        network = PixelNetwork(runs[0].model, runs[0].mean, runs[0].std).to(device)
        samples = choose(
            test,
            functools.partial(predict, network),
            per_class=config.per_class,
            mistakes=config.mistakes,
            hits=config.hits,
            candidates=config.candidates,
            seed=config.seed,
        )
    wanted = methods(config)
    count = len(samples) + (PARTS * len(samples.measured) if config.measures else 0)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    explained = []
    with Progress(*columns, console=console, transient=True) as progress:
        load_seconds = time.perf_counter() - started
        task = progress.add_task("", total=len(runs) * len(wanted) * count)
        # All methods are tried on all networks before the first one takes its time.
        examinations = [
            AttributionRun(
                run, samples, pixels, wanted, config, device,
                lambda text, images: progress.update(task, advance=images, description=text),
            )
            for run in runs
        ]  # fmt: skip
        explained = [examination.carry_out() for examination in examinations]
    names = tuple(config.names or names_of(runs[0], runs[len(first)] if second else None))
    titles = {name: method.title or method.captum for name, method in wanted.items()}
    return Explanation(
        explained[: len(first)], explained[len(first) :], names, samples, titles, pixels.has_background, load_seconds
    )


class AttributionRun:
    """A run under examination: its network, the images, the methods.

    Args:
        run: the trained run.
        samples: the images.
        pixels: what an absent pixel looks like, and some training images.
        methods: the methods, by name.
        config: of the command.
        device: what to compute on.
        on_images: told the name of a piece of work and how many images are done with it.

    Raises InputError for a method that the network does not allow.
    """

    def __init__(
        self,
        run: TrainedRun,
        samples: Samples,
        pixels: Pixels,
        methods: dict[str, Method],
        config: Explain,
        device: torch.device,
        on_images: Callable[[str, int], None],
    ) -> None:
        self._network = PixelNetwork(run.model, run.mean, run.std).to(device)
        self._pixels, self._samples, self._config, self._on_images = pixels.to(device), samples, config, on_images
        self._run = run
        self._methods = {
            name: Attributor(method, self._network, self._pixels, run.shape, config.batch_size, config.seed)
            for name, method in methods.items()
        }
        self._inputs = as_pixels(samples.images).to(device)
        chances = predict(self._network, self._inputs)
        classes = chances.argmax(axis=1)
        if config.target == "label":
            classes = np.where(samples.labels >= 0, samples.labels, classes)
        self._target = torch.from_numpy(classes).to(device)
        self._explained = Explained(run, chances, classes)
        for method in self._methods.values():  # what cannot work ends here, and not after minutes
            attribute(method, self._inputs[:1], self._target[:1])
        self._random_areas: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._fresh: PixelNetwork | None = None

    def carry_out(self) -> Explained:
        """The maps of all methods, and their measures if the config wants them."""
        measured = torch.from_numpy(self._samples.measured).to(self._inputs.device)
        for name, method in self._methods.items():
            with self._explained.timed(f"maps: {method.title}"):
                found, gaps = attribute(
                    method, self._inputs, self._target, lambda count, t=method.title: self._on_images(t, count)
                )
            self._explained.maps[name] = found.sum(1).numpy()
            self._explained.evidence[name] = np.abs(found.sum(1).numpy()) if method.is_local else found.sum(1).numpy()
            self._explained.grids[name] = method.grid
            self._explained.measures[name] = {}
            if gaps is not None:
                self._explained.measures[name]["gap"] = gaps.double().numpy()[self._samples.measured]
            if self._config.measures and len(measured):
                self._measure(name, self._inputs[measured], found.to(measured.device)[measured], self._target[measured])
        if self._config.measures and len(measured):
            self._compare_methods()
        return self._explained

    def _measure(self, name: str, inputs: Tensor, attributions: Tensor, target: Tensor) -> None:
        """All measures of a method's attributions, float [n, C or 1, H, W]."""
        config, network, method = self._config, self._network, self._methods[name]
        found, absent, maps = self._explained.measures[name], self._pixels.absent(), attributions.sum(1)
        evidence = maps.abs() if method.is_local else maps

        @contextmanager
        def part(title: str):
            with self._explained.timed(title):
                yield
            self._on_images(f"{method.title}: {title}", len(inputs))

        with part("deletion and insertion"):
            areas = deletion_and_insertion(network, inputs, evidence, target, absent, config.steps)
            found["deletion"], found["insertion"] = areas
        with part("random heatmaps"):
            if method.grid not in self._random_areas:  # methods that are equally fine share them
                noise = random_maps(len(inputs), inputs.shape[2:], method.grid, config.seed).to(inputs.device)
                areas = deletion_and_insertion(network, inputs, noise, target, absent, config.steps)
                self._random_areas[method.grid] = areas
            found["deletion_random"], found["insertion_random"] = self._random_areas[method.grid]
            found["deletion_gain"] = found["deletion_random"] - found["deletion"]
            found["insertion_gain"] = found["insertion"] - found["insertion_random"]
        with part("infidelity"):
            found["infidelity"] = relative_infidelity(
                network, method, inputs, attributions, target, absent, config.perturbations, config.seed
            )
        few = np.linspace(0, len(inputs), min(config.control_images, len(inputs)), endpoint=False).astype(np.int64)
        with part("sensitivity"):
            some = np.linspace(0, len(inputs), min(config.sensitivity_images, len(inputs)), endpoint=False)
            some = some.astype(np.int64)
            found["sensitivity"] = max_sensitivity(method, inputs[some], target[some], seed=config.seed)
        area = self._object_area()
        if area is not None:
            found["on_object"] = share_on(evidence.cpu().numpy(), area)
        found["half_area"] = half_area(maps.cpu().numpy())
        with part("controls"):
            area = None if area is None else area[few]
            self._control(name, inputs[few], maps[few].cpu().numpy(), target[few], area)

    def _control(self, name: str, inputs: Tensor, maps: np.ndarray, target: Tensor, area: np.ndarray | None) -> None:
        """Rank correlations of maps with those of random weights, and with themselves under slight noise."""
        seed, found = self._config.seed, self._explained.measures[name]

        def maps_of(network: PixelNetwork, images: Tensor, seed: int) -> np.ndarray:
            method = self._methods[name].method
            again = Attributor(method, network, self._pixels, self._run.shape, self._config.batch_size, seed)
            return attribute(again, images, target)[0].sum(1).numpy()

        noisy = []
        for number in (seed + 1, seed + 2):
            noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(number)).to(inputs.device)
            noisy.append(maps_of(self._network, inputs + REPEAT_NOISE * noise, number))
        found["repeated"] = rank_correlation(*noisy, area)
        if self._fresh is None:
            self._fresh = randomised(self._network, self._run.untrained, self._pixels.images, seed)
        found["randomised"] = rank_correlation(maps, maps_of(self._fresh, inputs, seed), area)

    def _compare_methods(self) -> None:
        """How far the methods agree with each other."""
        maps = {name: maps[self._samples.measured] for name, maps in self._explained.maps.items()}
        for one, other in itertools.combinations(maps, 2):
            self._explained.agreement[one, other] = rank_correlation(maps[one], maps[other], self._object_area())

    def _object_area(self) -> np.ndarray | None:
        """Pixels of the measured images' objects, bool [n, H, W]: what is not black; None without a background."""
        if not self._pixels.has_background:
            return None
        return (self._samples.images[self._samples.measured] > 0).any(axis=3)
