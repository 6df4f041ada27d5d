"""How fast networks are on this machine: short looks at them, and guesses where there is no time for one."""

import dataclasses
from pathlib import Path
from typing import Any

from fastconv.budget.benchmark import Probe, Recipe, probe
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


class Looks:
    """Looks at networks as a config would train them, whose answers are kept in `cache`."""

    def __init__(self, config: Config, device: Device, train: ImageData, cache: Path) -> None:
        self._config, self._device, self._train, self._cache = config, device, train, cache

    def at(self, network: Any, looks: int = 1) -> Probe:
        """The fastest of so many looks, or of more that there were before, for batches of BATCH images."""
        config = self._config
        recipe = Recipe(
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
            f"{looks} looks at {network_name(network)}",
            lambda: dataclasses.asdict(probe(recipe, self._device, self._cache, looks=looks)),
        )
        measured, devices = Probe(**found), config.trainer.devices
        learn = (measured.step_seconds - measured.update_seconds) / devices
        score = measured.score_seconds / devices
        return dataclasses.replace(measured, step_seconds=learn + measured.update_seconds, score_seconds=score)


def slower(measured: Probe, factor: float) -> Probe:
    """A network that takes so many times as long."""
    times = ("step_seconds", "score_seconds", "update_seconds", "look_seconds")
    return dataclasses.replace(measured, **{name: factor * getattr(measured, name) for name in times})


def faster(one: Probe, other: Probe) -> Probe:
    """The shorter of either's times."""
    times = ("step_seconds", "score_seconds", "update_seconds")
    return dataclasses.replace(one, **{name: min(getattr(one, name), getattr(other, name)) for name in times})


def network_name(network: Any) -> str:
    """What a network is called, with its widths if it has some."""
    return "-".join([network.name, *map(str, getattr(network, "widths", ()))])
