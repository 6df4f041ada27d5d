"""Speed profiles of networks on this machine, measured by short benchmarks, and estimates of those not measured."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, benchmark
from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData
from fastconv.models.configs import Network, model_settings
from fastconv.optim import optimizer_key
from fastconv.system.distributed import from_first_rank, is_first_rank
from fastconv.system.files import forget_measurement


class SpeedProfiles:
    """Speed profiles of networks, trained as a config says.

    Args:
        config: how they are trained.
        device: the device that trains.
        train: the training images, whose shape and classes the networks get.
        cache: folder in which measurements are kept.
        benchmark: measures a network, as `fastconv.budget.benchmark.benchmark` does: given the key, the device, the
            cache and the number of repeats.
    """

    def __init__(
        self,
        config: Config,
        device: Device,
        train: ImageData,
        cache: Path,
        benchmark: Callable[..., SpeedProfile] = benchmark,
        settings: Autotune = AUTOTUNE,
    ) -> None:
        self._config, self._device, self._train, self._cache = config, device, train, cache
        self._benchmark, self._settings = benchmark, settings
        self._known: dict[tuple[str, int], SpeedProfile] = {}

    def profile(self, network: Network, repeats: int = 1) -> SpeedProfile:
        """The fastest of `repeats` benchmarks, those made before included, of steps over `benchmark_batch_size` images.

        Of several ranks the first one measures; the devices of a run share the images of a step.
        """
        name = repr(network)
        if (known := max((key for key in self._known if key[0] == name), default=(name, 0)))[1] < repeats:
            known = name, repeats
            self._known[known] = self._measured(network, repeats)
        return self._known[known]

    def forget(self, profile: SpeedProfile) -> None:
        """Remove a profile from the cache, so that the next run measures it again; this one goes on with it."""
        if profile.path and is_first_rank():
            forget_measurement(Path(profile.path))

    def _measured(self, network: Network, repeats: int) -> SpeedProfile:
        """The first rank's measurement, with the images of a step divided among the devices of the run."""
        config, settings = self._config, self._settings
        height, width, channels = self._train.images.shape[1:]
        key = BenchmarkKey(
            network.name,
            model_settings(network),
            (height, width, channels),
            len(self._train.classes),
            settings.benchmark_batch_size,
            settings.benchmark_micro_batch_size[self._device.kind],
            config.trainer.channels_last,
            optimizer_key(config.optimizer),
        )
        measured = from_first_rank(
            f"benchmark {repeats} of {network_name(network)}",
            lambda: dataclasses.asdict(self._benchmark(key, self._device, self._cache, repeats=repeats)),
        )
        profile, devices = SpeedProfile(**measured), config.trainer.world
        return dataclasses.replace(
            profile,
            step_seconds=(profile.step_seconds - profile.update_seconds) / devices + profile.update_seconds,
            score_seconds=profile.score_seconds / devices,
        )


def image_seconds(profile: SpeedProfile, settings: Autotune = AUTOTUNE) -> float:
    """Seconds of forward and backward pass per image."""
    return (profile.step_seconds - profile.update_seconds) / settings.benchmark_batch_size


def scaled(profile: SpeedProfile, factor: float) -> SpeedProfile:
    """The profile of a network that takes `factor` times as long: an estimate, which is not kept."""
    return dataclasses.replace(
        profile,
        path="",
        step_seconds=factor * profile.step_seconds,
        score_seconds=factor * profile.score_seconds,
        update_seconds=factor * profile.update_seconds,
        benchmark_seconds=factor * profile.benchmark_seconds,
    )


def faster(one: SpeedProfile, other: SpeedProfile) -> SpeedProfile:
    """The first profile, with the shorter of both times for a step, an update and a scored image."""
    return dataclasses.replace(
        one,
        step_seconds=min(one.step_seconds, other.step_seconds),
        score_seconds=min(one.score_seconds, other.score_seconds),
        update_seconds=min(one.update_seconds, other.update_seconds),
    )


def network_name(network: Network) -> str:
    """Name of a network with its widths, if it has several, and a stride of its first layer: `airbench-64-256-256`,
    `airbench-32-128-128 stride 2`."""
    name = "-".join([network.name, *map(str, getattr(network, "widths", ()))])
    stride = getattr(network, "whitening_stride", 1)
    return name if stride == 1 else f"{name} stride {stride}"
