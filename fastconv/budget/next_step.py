"""Decides a run's progress and whether its next step is the last one: plain arithmetic on measured times."""

from dataclasses import dataclass

from fastconv.budget.pacing import StepTimes


@dataclass(frozen=True)
class Step:
    """The coming step: the progress, in [0, 1], at its predicted end, and whether it is the last."""

    progress: float
    last: bool


def _is_nearly_over(reached: float, limit: float, times: StepTimes, began: float) -> bool:
    """Whether so little of the schedule is missing that no step more is worth it."""
    pacing, missing = times.pacing, 1 - reached
    return missing <= pacing.missed_share and missing * (limit - began) <= pacing.missed_steps * times.worst


def ends_with_another_step(
    reached: float, elapsed: float, limit: float, spare: float, times: StepTimes, began: float = 0.0
) -> bool:
    """Whether a run that has no time for another step, and has not reached the end of its schedule, takes one more.

    Args:
        reached: progress so far.
        elapsed: seconds counted.
        limit: seconds that there were for steps.
        spare: seconds after the limit that such a step may take.
        times: predicted step times.
        began: seconds counted when the first step began.
    """
    return elapsed + times.worst <= limit + spare or not _is_nearly_over(reached, limit, times, began)


def before_update(
    step: Step, elapsed: float, limit: float, times: StepTimes, spare: float = 0.0, began: float = 0.0
) -> Step:
    """The current step, decided again when its gradients are there: its time is known then, but not yet its effect.

    However long a step turns out to take, it ends the schedule if no other one fits after it.

    Args:
        step: as it was decided before.
        elapsed, limit: seconds counted, and seconds there are for steps.
        times: predicted step times, by the current step too.
        spare, began: as for `next_step`.
    """
    if step.last:
        return step
    is_nearly_over = _is_nearly_over(step.progress, limit, times, began)
    next_seconds = times.worst if is_nearly_over else min(times.worst, times.expected)
    if elapsed + next_seconds > limit + spare:
        return Step(1.0, last=True)
    return Step(max(step.progress, _share(elapsed, began, _goal(limit, times, spare))), last=False)


def _goal(limit: float, times: StepTimes, spare: float) -> float:
    """Seconds at which the last step should end: if it turns out slow, or one before it, there is still time for it."""
    stall = max(0.0, min(times.pacing.stall_share * limit, times.pacing.stall_seconds) - spare)
    return limit - max(2 * (times.slow - times.expected), stall)


def _share(elapsed: float, began: float, goal: float) -> float:
    """Share of the time for steps that is over, in [0, 1]."""
    return min(1.0, (elapsed - began) / (goal - began)) if goal > began else 1.0


def next_step(
    done: int,
    max_steps: int | None,
    elapsed: float,
    limit: float | None,
    times: StepTimes,
    reached: float,
    spare: float = 0.0,
    began: float = 0.0,
) -> Step | None:
    """Decide the coming step, or None if the time for it has run out.

    The progress of a run is its share of steps or its share of the time for steps, whichever is larger. The step after
    which no other would surely fit is the last one; its progress is 1, so the schedule always ends.

    Args:
        done, max_steps: steps done, and steps after which the run ends (None: only time ends it).
        elapsed, limit: seconds counted, and seconds there are for steps (None: only steps end it).
        times: predicted step times.
        reached: progress of the step before; progress never falls.
        spare: seconds after the limit that a stall of the machine may take too.
        began: seconds counted when the first step began: what was spent before is no progress.
    """
    progress, last = reached, False
    if max_steps is not None:
        if done >= max_steps:
            return None
        progress, last = max(progress, (done + 1) / max_steps), done + 1 >= max_steps
    if limit is not None:
        if elapsed + times.worst > limit and done:
            return None
        goal, end = _goal(limit, times, spare), elapsed + times.expected
        progress = max(progress, _share(end, began, goal))
        last = last or end + times.expected > goal
    return Step(1.0 if last else min(progress, 1.0), last)
