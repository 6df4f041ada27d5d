"""Times of scoring while a run trains on a CPU: decides when to measure one, and what they say together."""

from statistics import median

from torch import Tensor

from fastconv.budget.pacing import PACING, Pacing
from fastconv.models.tta import Views


class ScoringTimes:
    """Seconds per scored image, measured at some moments of the training.

    Args:
        is_limited: whether the time of the run is limited: else nothing is measured.
        is_kept: whether time is kept for scoring: else a single measurement tells how long a step takes at least.
        pacing: constants of pacing.
    """

    def __init__(self, is_limited: bool, is_kept: bool, pacing: Pacing = PACING) -> None:
        self._pacing = pacing
        self._at = list(pacing.score_at if is_kept else pacing.score_at[:1]) if is_limited else []
        self.seconds: list[float] = []
        """Seconds per image, as measured so far; a resumed run goes on with them."""
        self._doubtful: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is a measurement to come."""
        return bool(self._at)

    @property
    def are_sure(self) -> bool:
        """Whether enough batches were scored to believe that scoring takes as long as they did."""
        return len(self.seconds) >= self._pacing.sure_measurements

    @property
    def slowest(self) -> float:
        """Seconds of the slowest. Of many, one outlier does not count, unless it is the latest: the machine may be slow
        now."""
        return max(self.seconds[-1], sorted(self.seconds)[-2 if self.are_sure else -1])

    @property
    def usual(self) -> float:
        """Median seconds."""
        return median(self.seconds)

    def are_due(self, progress: float) -> bool:
        """Whether to measure now, at this progress of the run. If so, the next time is later."""
        if not self._at or progress < self._at[0]:
            return False
        self._at = [each for each in self._at if each > progress]
        return True

    def add(self, seconds: float, progress: float, planned: float) -> bool:
        """Record the seconds per image of a batch that was scored at this progress; return whether they count.

        A time far longer than usual is measured again after the next step, if there is one: a first call sets things
        up, and the machine may have paused.

        Args:
            planned: seconds per image that the benchmark expected.
        """
        usual = self.usual if self.seconds else planned
        if seconds > self._pacing.doubtful_factor * usual and self._doubtful is None and self._at:
            self._doubtful = seconds
            self.repeat(progress)
            return False
        self.seconds.append(seconds if self._doubtful is None else min(seconds, self._doubtful))
        self._doubtful = None
        return True

    def repeat(self, progress: float) -> None:
        """Measure again after the next step."""
        self._at.insert(0, progress)


def views_per_image(views: Views, logits: Tensor, pacing: Pacing = PACING) -> float | None:
    """Mean number of views per image, from the share of uncertain images in a batch; None if all get all views.

    Args:
        views: views in which an image is scored after training.
        logits: of training images, float [B, classes].
        pacing: constants of pacing.
    """
    if views.confidence_threshold >= 1:
        return None
    uncertain = pacing.unseen_factor * float(views.uncertain(logits).float().mean())
    return views.scored(min(1.0, max(uncertain, pacing.min_uncertain)))
