"""Mean, spread and interval of a few numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation and number of some values; `half` is half of the mean's 95 % interval (Student's t)."""

    mean: float
    sd: float
    n: int

    @property
    def half(self) -> float:
        if self.n < 2:
            return float("nan")
        return float(student.ppf(0.975, self.n - 1)) * self.sd / self.n**0.5

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.n > 1 and abs(self.mean) > self.half


def summarise(values: Iterable[float]) -> Summary:
    """The summary of the values that are not NaN."""
    there = np.array([value for value in values if not np.isnan(value)], np.float64)
    if not len(there):
        return Summary(float("nan"), float("nan"), 0)
    return Summary(float(there.mean()), float(there.std(ddof=1)) if len(there) > 1 else float("nan"), len(there))
