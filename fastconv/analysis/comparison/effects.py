"""The effect of each setting of a balanced sweep: a full grid of values, in which each combination has as many seeds.

In any other sweep the mean over the runs that have a value would also be one over the other settings they happen to
have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.analysis.comparison.groups import Group, varied_settings
from fastconv.runs.collection import as_text

# Settings whose effects are drawn.
MOST_EFFECTS = 60


@dataclass(frozen=True)
class Effect:
    """The effect of a setting: for each of its values, the results of all seeds of the settings that have it."""

    key: str
    values: list[Any]
    results: list[list[float]]

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, so that a line between them means something."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


def is_balanced(groups: Sequence[Group], measure: str) -> bool:
    """Whether the effects of settings can be told apart: groups have a full grid of values, and equally many seeds.

    Of a single setting there is nothing to tell apart. Groups without results do not count.
    """
    groups = [group for group in groups if group.summary(measure).n]
    if len(groups) < 2:
        return True
    keys = varied_settings(groups)
    cells = {tuple(as_text(group.values[key]) for key in keys): group.summary(measure).n for group in groups}
    sides = (len({as_text(group.values[key]) for group in groups}) for key in keys)
    if len(cells) != len(groups) or len(cells) != math.prod(sides):
        return False
    return len(keys) == 1 or len(set(cells.values())) == 1


def effects(groups: Sequence[Group], measure: str) -> list[Effect]:
    """Return the effect of each of the first settings that groups differ in; numeric values in rising order.

    None where the groups are not balanced (`is_balanced`).
    """
    groups = [group for group in groups if group.summary(measure).n]
    if not is_balanced(groups, measure):
        return []
    found = []
    for key in varied_settings(groups)[:MOST_EFFECTS]:
        by_value: dict[str, tuple[Any, list[float]]] = {}
        for group in sorted(groups, key=lambda group: group.entries[0].folder):
            # By seed, as `is_balanced` counts them: a repeated run would give its other settings more weight.
            values = by_value.setdefault(as_text(group.values[key]), (group.values[key], []))[1]
            values.extend(group.by_seed(measure))
        effect = Effect(key, *map(list, zip(*by_value.values(), strict=True)))
        if effect.is_numeric:
            order = np.argsort(effect.values)
            effect = Effect(key, [effect.values[at] for at in order], [effect.results[at] for at in order])
        found.append(effect)
    return found
