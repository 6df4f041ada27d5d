"""The settings that a search varies, from Hydra's overrides: choices, ranges and intervals."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import Override

from fastconv.system.errors import InputError

Point = Mapping[str, Any]
# Settings that, with the space, decide which trials a search has.
SAMPLING = ("sweep.sampler", "sweep.seed", "sweep.startup_trials", "sweep.pruner")


@dataclass(frozen=True)
class Dimension:
    """A setting with several values: `choices` as written, or numbers from `low` to `high`, both included."""

    key: str
    written: str
    """The values as they were written, such as `interval(0.1,1)`."""
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    """Distance between two numbers; None for every number."""
    log: bool = False
    """Whether numbers are drawn evenly by their logarithm."""

    @property
    def is_whole(self) -> bool:
        """Whether it has whole numbers."""
        return all(isinstance(each, int) for each in (self.low, self.high, 1 if self.step is None else self.step))

    def distribution(self) -> Any:
        """The Optuna distribution of its values."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def values(self) -> Sequence[Any] | None:
        """All its values; None for those of a continuous interval."""
        if self.choices:
            return self.choices
        if self.step is None and not self.is_whole:
            return None
        step = self.step or 1
        # As Optuna draws them: 0.1 + 2 * 0.1 is a bit more than 0.3.
        return [min(self.low + step * at, self.high) for at in range(round((self.high - self.low) / step) + 1)]

    def tried(self) -> tuple[Any, ...]:
        """The values that show whether all of them are possible: each choice, or the least and the greatest number."""
        return self.choices or (self.low, self.high)


def dimension(override: Override) -> Dimension:
    """The values of an override that has several. Raises InputError for values that no search can draw from."""
    key, value = override.get_key_element(), override.value()
    written = str(override.input_line).partition("=")[2]

    def require(ok: bool, rule: str) -> None:
        if not ok:
            raise InputError(f"{key}={written} is not possible in a search: {rule}")

    log = "log" in getattr(value, "tags", ())
    if override.is_choice_sweep():
        choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
        # A shuffled order would be another one in each process.
        return Dimension(key, written, tuple(sorted(choices)) if getattr(value, "shuffle", False) else choices)
    of_values: Any = value
    if override.is_range_sweep():
        numbers = list(of_values.range())
        require(bool(numbers), "it has no numbers")
        if isinstance(numbers[0], float):  # by their decimals, as Optuna counts: added up, 0.1, 0.2, 0.3 end beyond 0.3
            first, distance = Decimal(str(of_values.start)), Decimal(str(of_values.step))
            numbers = [float(first + at * distance) for at in range(len(numbers))]
        low, high, step = min(numbers), max(numbers), abs(of_values.step)
        require(not log or (step == 1 and isinstance(low, int)), "tag(log, range(...)) is for steps of 1")
    else:
        low, high, step = of_values.start, of_values.end, None
        require(low is not None and high is not None and low < high, "give a smaller number, then a larger one")
    require(math.isfinite(low) and math.isfinite(high), "give finite numbers")
    require(not log or low > 0, "numbers below or at 0 have no logarithm")
    return Dimension(key, written, low=low, high=high, step=step, log=log)


def points(space: Sequence[Dimension]) -> Iterator[dict[str, Any]] | None:
    """All points of a space, one by one; None if a continuous interval is a part of it."""
    values = [each.values() for each in space]
    if any(each is None for each in values):
        return None
    keys = [each.key for each in space]
    return (dict(zip(keys, point, strict=True)) for point in itertools.product(*(each or () for each in values)))


def overrides_of(point: Point) -> list[str]:
    """A point as Hydra's overrides."""
    return [f"{key}={value}" for key, value in point.items()]
