"""The verdict that a mean and its interval give on a claim: yes, no, or undecided."""

from fastconv.analysis.comparison.statistics import Summary

YES, NO, UNDECIDED, NOT_MEASURED = "yes", "no", "undecided", "not measured"
# Added to a verdict that rests on the test images of one seed: other seeds may differ by more than its images show.
ONE_SEED = " (one seed)"


def verdict(change: Summary, threshold: float = 0.0) -> str:
    """Say whether a mean is above a threshold: yes or no if its whole 95 % interval is on one side, else undecided."""
    if not change.n:
        return NOT_MEASURED
    basis = ONE_SEED if change.n == 1 else ""
    if change.mean - change.half > threshold:
        return YES + basis
    return NO + basis if change.mean + change.half < threshold else UNDECIDED


def interval(summary: Summary, pattern: str, unit: str = "") -> str:
    """Format a mean with its 95 % interval, or say that one value has none; a dash for no value."""
    if not summary.n:
        return "-"
    text = f"{summary.mean:{pattern}}{unit}"
    if summary.half != summary.half:
        return f"{text} (no interval: n = 1)"
    low, high = summary.mean - summary.half, summary.mean + summary.half
    basis = " over the images; n = 1" if summary.n == 1 else ""
    return f"{text} ({low:{pattern}} to {high:{pattern}}{basis})"


def opposite(answer: str) -> str:
    """Return the verdict on the opposite of a claim."""
    first, space, basis = answer.partition(" ")
    return {YES: NO, NO: YES}[first] + space + basis if first in (YES, NO) else answer
