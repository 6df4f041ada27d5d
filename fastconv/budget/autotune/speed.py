"""How fast networks are on this machine: short repeats at them, and guesses where there is no time for one."""

import dataclasses
from pathlib import Path
from typing import Any

from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, benchmark
from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData
from fastconv.models.configs import model_settings
from fastconv.system.distributed import from_first_rank

# Images of a part, on a GPU as many as fill it, and of the batch whose update is looked at.
PART, BATCH = {"cpu": 64, "cuda": 1024}, 2048
# From one network to the next, time grows with this power of the arithmetic, about: 0.5 (the smallest) to 0.95 on two
# CPUs. If a look says that it has grown more than so many times as much as the arithmetic, it was disturbed.
GROWTH, DISTURBED = 0.7, 1.2


class SpeedProfiles:
    """Looks at networks as a config would train them, whose answers are kept in `cache`."""

    def __init__(self, config: Config, device: Device, train: ImageData, cache: Path) -> None:
        self._config, self._device, self._train, self._cache = config, device, train, cache

    def at(self, network: Any, repeats: int = 1) -> SpeedProfile:
        """The fastest of so many repeats, or of more that there were before, for batches of BATCH images."""
        config = self._config
        key = BenchmarkKey(
            network.name,
            model_settings(network),
            self._train.images.shape[1:],
            len(self._train.classes),
            BATCH,
            PART[self._device.kind],
            config.trainer.channels_last,
            config.optimizer.name,
        )
        found = from_first_rank(
            f"{repeats} repeats at {network_name(network)}",
            lambda: dataclasses.asdict(benchmark(key, self._device, self._cache, repeats=repeats)),
        )
        measured, devices = SpeedProfile(**found), config.trainer.devices
        learn = (measured.step_seconds - measured.update_seconds) / devices
        score = measured.score_seconds / devices
        return dataclasses.replace(measured, step_seconds=learn + measured.update_seconds, score_seconds=score)


def slower(measured: SpeedProfile, factor: float) -> SpeedProfile:
    """A network that takes so many times as long."""
    times = ("step_seconds", "score_seconds", "update_seconds", "benchmark_seconds")
    return dataclasses.replace(measured, **{name: factor * getattr(measured, name) for name in times})


def faster(one: SpeedProfile, other: SpeedProfile) -> SpeedProfile:
    """The shorter of either's times."""
    times = ("step_seconds", "score_seconds", "update_seconds")
    return dataclasses.replace(one, **{name: min(getattr(one, name), getattr(other, name)) for name in times})


def network_name(network: Any) -> str:
    """What a network is called, with its widths if it has some."""
    return "-".join([network.name, *map(str, getattr(network, "widths", ()))])
