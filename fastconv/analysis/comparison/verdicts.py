"""Verdicts on groups of runs: the best one, and those that are not significantly different from it."""

from collections.abc import Sequence

from fastconv.analysis.comparison.statistics import Summary, welch_p_value

BEST, NOT_DIFFERENT, WORSE = "best", "not significantly different from the best", "significantly worse"
# Of groups with too few seeds; the first where no two groups have enough of them.
HIGHEST, UNTESTED = "highest, but untested", "untested"
# Significance level of the test: the chance of calling two given groups different that are not. It is not corrected for
# the choice of the best among many: of equal groups of three seeds, 3 % of two are called worse, 8 % of ten and 15 % of
# fifty.
SIGNIFICANCE = 0.05
# Seeds that a group needs to be tested, since the test rests on its spread: in one case of twenty that of two values is
# less than a sixteenth of the true one, that of three less than a quarter (chi distribution).
FEWEST_SEEDS = 3


def judge(results: Sequence[Summary]) -> list[str]:
    """Compare groups that were scored on the same images by Welch's t-test.

    Args:
        results: of each group, in falling order of their means; those without results last.

    Returns a verdict on each: empty for one without results, and where there is nothing to compare with.
    """
    there = [summary for summary in results if summary.n]
    tested = [summary for summary in there if summary.n >= FEWEST_SEEDS]
    if len(there) < 2:
        return [""] * len(results)
    if len(tested) < 2:
        return [HIGHEST, *[UNTESTED] * (len(there) - 1), *[""] * (len(results) - len(there))]
    return [_against(summary, tested[0]) if summary.n else "" for summary in results]


def _against(ours: Summary, best: Summary) -> str:
    if ours is best:
        return BEST
    if ours.n < FEWEST_SEEDS:
        return UNTESTED
    if ours.sd == best.sd == 0:  # no spread to test by
        return NOT_DIFFERENT if ours.mean == best.mean else WORSE
    return NOT_DIFFERENT if welch_p_value(ours, best) > SIGNIFICANCE else WORSE
