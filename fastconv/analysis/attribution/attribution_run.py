"""The attribution maps of one trained run, and their measures."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
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
from fastconv.analysis.attribution.samples import Samples
from fastconv.analysis.checkpoint import TrainedRun
from fastconv.config.commands import Explain, Method
from fastconv.data.dataset import evenly_spread

# Standard deviation of the noise under which a map should repeat, as a share of the range of pixel values.
REPEAT_NOISE = 0.02
# Parts of the work of measuring a method, for the progress bar.
MEASURE_PARTS = 5


@dataclass
class ExplainedRun:
    """A run with its attribution maps and measures: N images, of which n are measured, as in `Samples.measured`."""

    run: TrainedRun
    probabilities: np.ndarray
    """Class probabilities, float32 [N, classes]."""
    target: np.ndarray
    """The classes explained, int64 [N]."""
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    """By method: signed attributions float32 [N, H, W]."""
    evidence: dict[str, np.ndarray] = field(default_factory=dict)
    """By method: the importance of each pixel, float32 [N, H, W]: the attributions, or the magnitude of a gradient,
    whose sign says only whether the pixel should be brighter or darker."""
    measures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """By method and measure (a key of `fastconv.analysis.attribution.findings.MEASURES`): float64 [n or fewer]."""
    agreement: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """By pair of methods: rank correlation of their maps, float64 [n]."""
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By method: rows and columns of its resolution."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By part of the work."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the seconds of the block for a part of the work."""
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started


class AttributionRun:
    """Computes the attribution maps of a run and measures them.

    Args:
        run: the trained run.
        samples: the images.
        pixels: baselines for absent pixels, and some training images.
        methods: the methods, by name.
        config: settings of the command.
        device: the device to compute on.
        on_images: called with the name of a part of the work and the number of images done.

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
        # Shown at the run's temperature, as predict and evaluate show them.
        probabilities = predict(self._network, self._inputs, temperature=run.temperature)
        classes = probabilities.argmax(axis=1)
        if config.target == "label":
            classes = np.where(samples.labels >= 0, samples.labels, classes)
        self._target = torch.from_numpy(classes).to(device)
        self._result = ExplainedRun(run, probabilities, classes)
        for method in self._methods.values():  # a method that does not work fails here, and not after minutes
            attribute(method, self._inputs[:1], self._target[:1])
        self._random_areas: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._fresh: PixelNetwork | None = None

    def carry_out(self) -> ExplainedRun:
        """Compute the maps of all methods, and their measures if the config asks for them."""
        measured = torch.from_numpy(self._samples.measured).to(self._inputs.device)
        for name, method in self._methods.items():
            with self._result.timed(f"maps: {method.title}"):
                on_images = functools.partial(self._on_images, method.title)
                found, gaps = attribute(method, self._inputs, self._target, on_images)
            self._result.maps[name] = maps = found.sum(1).numpy()
            self._result.evidence[name] = np.abs(maps) if method.is_local else maps
            self._result.grids[name] = method.grid
            self._result.measures[name] = {}
            if gaps is not None:
                self._result.measures[name]["gap"] = gaps.double().numpy()[self._samples.measured]
            if self._config.measures and len(measured):
                self._measure(name, self._inputs[measured], found.to(measured.device)[measured], self._target[measured])
        if self._config.measures and len(measured):
            self._compare_methods()
        return self._result

    def _measure(self, name: str, inputs: Tensor, attributions: Tensor, target: Tensor) -> None:
        """Measure a method's attributions, float [n, C or 1, H, W]."""
        config, network, method = self._config, self._network, self._methods[name]
        found, absent, maps = self._result.measures[name], self._pixels.absent(), attributions.sum(1)
        evidence = maps.abs() if method.is_local else maps

        @contextmanager
        def part(title: str) -> Iterator[None]:
            with self._result.timed(title):
                yield
            self._on_images(f"{method.title}: {title}", len(inputs))

        with part("deletion and insertion"):
            areas = deletion_and_insertion(network, inputs, evidence, target, absent, config.steps)
            found["deletion"], found["insertion"] = areas
        with part("random heatmaps"):
            if method.grid not in self._random_areas:  # methods of the same resolution share them
                noise = random_maps(len(inputs), (inputs.shape[2], inputs.shape[3]), method.grid, config.seed).to(
                    inputs.device
                )
                areas = deletion_and_insertion(network, inputs, noise, target, absent, config.steps)
                self._random_areas[method.grid] = areas
            found["deletion_random"], found["insertion_random"] = self._random_areas[method.grid]
            found["deletion_gain"] = found["deletion_random"] - found["deletion"]
            found["insertion_gain"] = found["insertion"] - found["insertion_random"]
        with part("infidelity"):
            found["infidelity"] = relative_infidelity(
                network, method, inputs, attributions, target, absent, config.perturbations, config.seed
            )
        few = evenly_spread(len(inputs), config.control_images)
        with part("sensitivity"):
            some = evenly_spread(len(inputs), config.sensitivity_images)
            found["sensitivity"] = max_sensitivity(method, inputs[some], target[some], seed=config.seed)
        area = self._object_area()
        if area is not None:
            found["on_object"] = share_on(evidence.cpu().numpy(), area)
        found["half_area"] = half_area(maps.cpu().numpy())
        with part("controls"):
            area = None if area is None else area[few]
            self._control(name, inputs[few], maps[few].cpu().numpy(), target[few], area)

    def _control(self, name: str, inputs: Tensor, maps: np.ndarray, target: Tensor, area: np.ndarray | None) -> None:
        """Correlate maps with those of random weights, and with themselves under slight noise."""
        seed, found = self._config.seed, self._result.measures[name]

        def maps_of(network: PixelNetwork, images: Tensor, seed: int) -> np.ndarray:
            method = self._methods[name].method
            again = Attributor(method, network, self._pixels, self._run.shape, self._config.batch_size, seed)
            return attribute(again, images, target)[0].sum(1).numpy()

        noisy: list[np.ndarray] = []
        for number in (seed + 1, seed + 2):
            noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(number)).to(inputs.device)
            noisy.append(maps_of(self._network, inputs + REPEAT_NOISE * noise, number))
        found["repeated"] = rank_correlation(noisy[0], noisy[1], area)
        if self._fresh is None:
            self._fresh = randomised(self._network, self._run.untrained, self._pixels.images, seed)
        found["randomised"] = rank_correlation(maps, maps_of(self._fresh, inputs, seed), area)

    def _compare_methods(self) -> None:
        """Correlate the maps of each pair of methods."""
        maps = {name: maps[self._samples.measured] for name, maps in self._result.maps.items()}
        for one, other in itertools.combinations(maps, 2):
            self._result.agreement[one, other] = rank_correlation(maps[one], maps[other], self._object_area())

    def _object_area(self) -> np.ndarray | None:
        """Return the pixels of the measured images' objects, not black, bool [n, H, W]; None without background."""
        if not self._pixels.has_background:
            return None
        area: np.ndarray = (self._samples.images[self._samples.measured] > 0).any(axis=3)
        return area
