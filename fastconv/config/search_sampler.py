"""Draws the points of a search: each with a seed of its own, and none that was tried before."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from fastconv.config.search_space import Dimension, Point, points

# Draws of one trial before the first point that was not tried is taken instead.
DRAWS = 20


class DistinctSampler(BaseSampler):
    """Draws a point by TPE or at random.

    The seed follows from that of the search and the number of the trial, so that no two trials, in whichever process,
    draw the same random numbers, and that a search which goes on draws what it would have drawn.

    Args:
        kind: `tpe` or `random`.
        seed: of the search.
        startup_trials: trials to draw at random before TPE.
        space: the settings to draw.
        number: of the trial.
        tried: the points that other trials have.
    """

    def __init__(
        self, kind: str, seed: int, startup_trials: int, space: Sequence[Dimension], number: int, tried: Sequence[Point]
    ) -> None:
        self._kind, self._seed, self._startup_trials = kind, seed, startup_trials
        self._space, self._number = space, number
        self._tried = [dict(point) for point in tried]

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {each.key: each.distribution() for each in self._space}

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        for draw in range(DRAWS):
            sampler = self._sampler(draw)
            point = dict(sampler.sample_relative(study, trial, search_space))
            for key, distribution in search_space.items():
                if key not in point:
                    point[key] = sampler.sample_independent(study, trial, key, distribution)
            if point not in self._tried:
                return point
        return next((other for other in points(self._space) or () if other not in self._tried), point)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler(0).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, draw: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, self._number, draw]).generate_state(1)[0])
        if self._kind == "random":
            return RandomSampler(seed=seed)
        # A trial that another process is running counts as a bad one, so that no two look at the same place.
        return TPESampler(n_startup_trials=self._startup_trials, seed=seed, multivariate=True, constant_liar=True)


def pruner(kind: str, startup_trials: int, parts: int) -> Any:
    """The Optuna pruner of a search, which judges trials at `parts` equal parts of their training."""
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=parts)
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=parts // 5)
    return optuna.pruners.NopPruner()
