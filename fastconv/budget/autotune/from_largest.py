"""The search for a network on a GPU: from the largest down to the first that sees enough images.

A benchmark takes a GPU about as long for a small network as for a large one, and the network of a budget of seconds is
among the larger ones there: from the smallest up, nearly all of them would be measured.
"""

from collections.abc import Callable, Sequence

from fastconv.budget.autotune.candidate import Candidate
from fastconv.budget.autotune.scaling_law import FLOP, SIDE, ModelSize
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import scaled
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.bounds import TRAINING


def from_largest(
    sizes: Sequence[ModelSize],
    candidate: Callable[[ModelSize, SpeedProfile], Candidate],
    log_error: Callable[[ModelSize, Candidate], float],
    fastest: Callable[[ModelSize], SpeedProfile],
    measure: Callable[[ModelSize, SpeedProfile | None], SpeedProfile],
) -> list[tuple[ModelSize, Candidate]]:
    """The sizes that were measured, smallest first, as candidates: the best one is among them.

    A size sees enough images if its expected error is at most that of the next smaller one, if that were faster by all
    of its arithmetic. One that does not, even at the speed of a matrix product, is not measured.

    Args:
        sizes: smallest first.
        candidate: a size with a speed profile in the budget.
        log_error: its expected log error.
        fastest: a speed profile that no network of this size can exceed.
        measure: the speed profile of a size, given an estimate from the size above it, if there is one.
    """
    tried: list[tuple[ModelSize, Candidate]] = []

    def sees_enough(at: int, speed: SpeedProfile) -> bool:
        size, smaller = sizes[at], sizes[at - 1]
        other = scaled(speed, smaller.flops / size.flops)
        own = log_error(size, candidate(size, speed))
        return own <= log_error(smaller, candidate(smaller, other))

    before: tuple[ModelSize, SpeedProfile] | None = None
    for at in range(len(sizes) - 1, -1, -1):
        size = sizes[at]
        if at and not sees_enough(at, fastest(size)):
            continue
        speed = measure(size, scaled(before[1], size.flops / before[0].flops) if before else None)
        before = size, speed
        tried.insert(0, (size, candidate(size, speed)))
        if at and sees_enough(at, speed):
            break
    return tried


def fastest_profile(
    size: ModelSize, side: int, operations_per_second: float, settings: Autotune = AUTOTUNE
) -> SpeedProfile:
    """A speed profile that no network of this size exceeds.

    Args:
        side: the shorter side of an image, in pixels; larger images than the scaling law's have maps as large as those.
        operations_per_second: of a product of large matrices.
    """
    operations = FLOP * size.flops * (min(side, SIDE) / SIDE) ** 2
    seconds = operations / (settings.fastest_network * operations_per_second)
    return SpeedProfile(settings.benchmark_batch_size * seconds, seconds / TRAINING, memory_mb=0.0)
