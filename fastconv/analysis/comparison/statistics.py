"""Mean, standard deviation and confidence interval of a few values, and Welch's t-test.

By scipy.special: scipy.stats has the same, but takes a second to import.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation and number of some values; `half` is half of the mean's 95 % interval (Student's t)."""

    mean: float
    sd: float
    n: int
    half_of_one: float = float("nan")
    """Half the width of a single value's interval, where it is known from what was measured."""

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; of fewer than two values `half_of_one`, NaN if it is not known."""
        if self.n < 2:
            return self.half_of_one
        return float(stdtrit(self.n - 1, 0.975) * self.sd / self.n**0.5)

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero."""
        return bool(self.n > 1 and abs(self.mean) > self.half)


def summarise(values: Iterable[float]) -> Summary:
    """Summarise the values that are not NaN."""
    there = np.array([value for value in values if value == value], np.float64)
    if not len(there):
        return Summary(float("nan"), float("nan"), 0)
    return Summary(float(there.mean()), float(there.std(ddof=1)) if len(there) > 1 else float("nan"), len(there))


def welch_p_value(one: Summary, other: Summary) -> float:
    """Return the two-sided p value of Welch's t-test: how likely means this different are if there is no difference.

    NaN where one of them has a single value, or both no spread.
    """
    errors = [each.sd**2 / each.n for each in (one, other)]
    if min(one.n, other.n) < 2 or not sum(errors):
        return float("nan")
    freedom = sum(errors) ** 2 / sum(error**2 / (each.n - 1) for error, each in zip(errors, (one, other), strict=True))
    return float(2 * stdtr(freedom, -abs(one.mean - other.mean) / sum(errors) ** 0.5))
