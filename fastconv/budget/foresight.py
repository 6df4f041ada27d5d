"""Predicts in the middle of a step how it ends and what follows, so that ranks agree in time."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.budget.next_step import Step, before_update, ends_with_another_step, next_step
from fastconv.budget.pacing import StepTimes


@dataclass(frozen=True)
class Foresight:
    """The current step as it will be when its gradients are there, the one after it, and whether there is one."""

    current: Step
    """The current step, with its final progress."""
    following: Step | None
    """None if the time for it has run out."""
    stop: bool
    """Whether training ends with the current step."""

    def numbers(self) -> list[float]:
        """The same as five numbers, which ranks can send."""
        current, following = self.current, self.following or Step(-1.0, last=False)
        return [current.progress, current.last, following.progress, following.last, self.stop]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Foresight":
        """The prediction from which `numbers` were made, the first five of them."""
        progress, is_last, next_progress, next_is_last, stop = numbers[:5]
        following = Step(next_progress, last=bool(next_is_last)) if next_progress >= 0 else None
        return cls(Step(progress, last=bool(is_last)), following, bool(stop))


def foresee(
    step: Step,
    done: int,
    max_steps: int | None,
    elapsed: float,
    limit: float | None,
    times: StepTimes,
    spare: float = 0.0,
    began: float = 0.0,
    decides_again: bool = True,
) -> Foresight:
    """Foresee the end of a step.

    Args:
        step: the current step, as it was decided before it.
        done, max_steps: steps before the current one, and steps after which the run ends.
        elapsed: seconds that will have been counted at the end of the current step.
        limit, spare, began: as for `next_step`.
        times: predicted step times, by the current step too.
        decides_again: whether the current step's time is known well enough to decide its progress again.
    """
    current = step
    if decides_again and limit is not None:
        current = before_update(step, elapsed, limit, times, spare, began)
    following = next_step(done + 1, max_steps, elapsed, limit, times, current.progress, spare, began)
    stop = current.last or (max_steps is not None and done + 1 >= max_steps)
    if not stop and limit is not None and following is None:
        stop = not ends_with_another_step(current.progress, elapsed, limit, spare, times, began)
    return Foresight(current, following, stop)
