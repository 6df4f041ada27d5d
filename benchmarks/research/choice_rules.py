"""Compares rules by which autotune could choose a network, on machines whose speeds were measured.

PYTHONPATH=benchmarks python benchmarks/research/choice_rules.py

The speeds are those of the runs in model_sizes.csv, network by network; the largest three are extrapolated with the
0.95th power of the arithmetic. The error after the images that a rule leaves time for is that of the scaling law. For
400 budgets on each machine, between those in which the smallest network sees 1 and 1,000 epochs of CIFAR-10, the
table says how much larger it is on average than with perfect knowledge, for free, and what share of the time benchmarks
took. Then, for the budget at which two neighbours are level, what a race between them would see after a share of it.
"""

import math
from collections import defaultdict
from statistics import mean, median

import numpy as np
from measurements import RESULTS, read

from fastconv.budget.autotune.scaling_law import MODEL_SIZES
from fastconv.budget.autotune.settings import AUTOTUNE

IMAGES = 50_000
# A benchmark trains on 6 micro batches of 64 and scores 6, a third of the work.
BENCHMARK_IMAGES = 8 * 64
NAMES = ["-".join(map(str, size.network.widths)) for size in MODEL_SIZES]


def machines() -> dict[str, list[float]]:
    """Seconds per image of each network on each machine."""
    rates = defaultdict(lambda: defaultdict(list))
    for row in read(RESULTS / "model_sizes.csv"):
        if row["case"] == "half of cifar10" and row["network"] != "best":
            machine = f"{row['device']}, {row['precision']}"
            seconds = float(row["counted"]) / (float(row["epochs"]) * IMAGES / 2)
            rates[machine][row["network"]].append(seconds)
    found = {}
    for machine, measured in rates.items():
        known = [median(measured[name]) if name in measured else None for name in NAMES]
        for at in (2, 1, 0):  # a machine without the smallest one
            known[at] = known[at] or known[at + 1] / (MODEL_SIZES[at + 1].flops / MODEL_SIZES[at].flops) ** 0.5
        for at in range(4, len(NAMES)):
            known[at] = known[at - 1] * (MODEL_SIZES[at].flops / MODEL_SIZES[at - 1].flops) ** 0.95
        found[machine] = known
    # Others that may be: only the arithmetic counts, or hardly anything does.
    for exponent in (1.0, 0.85, 0.4):
        found[f"time is arithmetic**{exponent}"] = [1e-3 * size.flops**exponent for size in MODEL_SIZES]
    return found


def errors(seconds: list[float], budget: float) -> list[float]:
    """Log error of the networks, from the smallest on, whose seconds per image these are."""
    return [size.log_error(budget / each) for size, each in zip(MODEL_SIZES, seconds, strict=False)]


def ladder(true: list[float], budget: float, share: float, repeats: int) -> tuple[int, float]:
    """Benchmark from the smallest on until the next one would do worse; extrapolate what would take too long."""
    known, spent = [], 0.0
    for at, seconds in enumerate(true):
        growth = 1.0 if not at else (MODEL_SIZES[at].flops / MODEL_SIZES[at - 1].flops) ** AUTOTUNE.time_exponent
        cost = repeats * BENCHMARK_IMAGES * (known[-1] * growth if at else seconds)
        if not at or spent + cost <= share * budget:
            spent += repeats * BENCHMARK_IMAGES * seconds
            known.append(seconds)
        else:
            known.append(known[-1] * growth)
        found = errors(known, budget)
        if at and found[-1] > found[-2]:
            break
    return int(np.argmin(found)), spent / budget


def two(true: list[float], budget: float, share: float, repeats: int, most: int = 3) -> tuple[int, float]:
    """Benchmark the smallest, then the one that seems best by what is known; at most `most` networks."""
    known, spent = {0: true[0]}, repeats * BENCHMARK_IMAGES * true[0]
    while True:
        estimated = [estimate(known, at) for at in range(len(true))]
        best = int(np.argmin(errors(estimated, budget)))
        cost = repeats * BENCHMARK_IMAGES * estimated[best]
        if best in known or len(known) == most or spent + cost > share * budget:
            return best, spent / budget
        known[best] = true[best]
        spent += repeats * BENCHMARK_IMAGES * true[best]


def estimate(known: dict[int, float], at: int) -> float:
    """Seconds of a network by those that are known: interpolated, or with a power of the arithmetic."""
    below, above = max(k for k in known if k <= at), min((k for k in known if k >= at), default=None)
    if above is None:
        return known[below] * (MODEL_SIZES[at].flops / MODEL_SIZES[below].flops) ** AUTOTUNE.time_exponent
    flops = [math.log(MODEL_SIZES[each].flops) for each in (below, at, above)]
    part = 0.0 if below == above else (flops[1] - flops[0]) / (flops[2] - flops[0])
    return known[below] ** (1 - part) * known[above] ** part


def thresholds(true: list[float], budget: float, *_: float) -> tuple[int, float]:
    """Benchmark the smallest only; a table of its passes decides, as where time grows with the 0.7th power."""
    estimated = [estimate({0: true[0]}, at) for at in range(len(true))]
    return int(np.argmin(errors(estimated, budget))), 2 * BENCHMARK_IMAGES * true[0] / budget


RULES = {
    "from the smallest on, twice": lambda true, budget: ladder(true, budget, 0.02, 2),
    "from the smallest on, once": lambda true, budget: ladder(true, budget, 0.02, 1),
    "smallest and best, three at most, twice": lambda true, budget: two(true, budget, 0.02, 2),
    "smallest and best, two at most, twice": lambda true, budget: two(true, budget, 0.02, 2, 2),
    "smallest and best, three at most, once": lambda true, budget: two(true, budget, 0.02, 1),
    "smallest alone, and a table": thresholds,
}


def race(true: list[float], at: int, shares: tuple[float, ...] = (0.025, 0.1, 0.3)) -> str:
    """How many times as many errors network `at + 1` makes as network `at` after shares of the budget at which they end
    level, if each has such a share for itself."""

    def more(seconds: float) -> float:
        larger, smaller = (MODEL_SIZES[each].log_error(seconds / true[each]) for each in (at + 1, at))
        return larger - smaller

    level = next((each for each in np.geomspace(1e-2, 1e4, 20_000) * IMAGES * true[at] if more(each) < 0), None)
    if level is None:
        return f"{NAMES[at]} is never worse than {NAMES[at + 1]}"
    found = ", ".join(f"{math.exp(more(share * level)):.2f} after {share:.1%}" for share in shares)
    return f"{NAMES[at]} and {NAMES[at + 1]} are level after {level:,.0f} s; errors of the larger one: {found}"


def main() -> None:
    for machine, true in machines().items():
        print(machine, "ms per image:", ", ".join(f"{1e3 * each:.3g}" for each in true))
        budgets = np.geomspace(1, 1000, 400) * IMAGES * true[0]
        print("  passes of the smaller network at which the next one is better:", end=" ")
        for at in range(len(true) - 1):
            passes = np.geomspace(0.01, 1e4, 20_000)
            better = [MODEL_SIZES[at + 1].log_error(each * IMAGES * true[at] / true[at + 1])
                      < MODEL_SIZES[at].log_error(each * IMAGES) for each in passes]  # fmt: skip
            print(f"{passes[int(np.argmax(better))]:.2g}", end=" ")
        print()
        for name, rule in RULES.items():
            more, shares, hits = [], [], 0
            for budget in budgets:
                best = min(errors(true, budget))
                chosen, share = rule(true, budget)
                left = max(1 - share, 0.01) * budget
                more.append(math.exp(MODEL_SIZES[chosen].log_error(left / true[chosen]) - best) - 1)
                shares.append(share)
                hits += chosen == int(np.argmin(errors(true, budget)))
            print(f"  {name:42} {mean(more):7.2%} more errors (worst {max(more):6.1%}), benchmarks take"
                  f" {mean(shares):6.2%}, the best network {hits / len(budgets):.0%}")  # fmt: skip
        for at in range(len(true) - 1):
            print(f"  {race(true, at)}")


if __name__ == "__main__":
    main()
