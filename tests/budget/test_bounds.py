"""Budgets in which no step fits, and what is said of them."""

import pytest

from fastconv.budget.bounds import require_seconds
from fastconv.system.errors import InputError


@pytest.mark.parametrize(
    ("limit", "step", "spent", "line"),
    [
        (10, 12, {}, r"too short for one step, which takes 12 s or more here \(0 s are spent already\)"),
        (
            10,
            3,
            {"setup": 2, "benchmark": 6},
            r"too short for one step, which takes 3 s or more here \(8 s are spent already: measuring 6 s, starting and"
            r" reading 2 s\)",
        ),
        (
            10,
            0.01,
            {"setup": 1.5, "benchmark": 0.01, "precompute": 10.5},
            "was over before training began, after 12 s: precomputing 10 s, starting and reading 1.5 s. Give",
        ),
    ],
)
def test_a_budget_without_a_step_is_refused(limit, step, spent, line):
    with pytest.raises(InputError, match=f"^budget.seconds=10 (is )?{line}"):
        require_seconds(limit, step, spent)


def test_a_step_that_just_fits_is_taken():
    require_seconds(10, 2, {"setup": 8.0})
