"""The time that a run keeps for scoring: plain arithmetic on measured times."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastconv.budget.pacing import PACING, Pacing


@dataclass
class ScoringReserve:
    """Counted time that is kept for the end of a run: for scoring images, for writing the checkpoint and the results.

    Until scoring starts, `seconds` says how much to keep, by what was measured last (`update`). After `start_scoring`,
    while images are scored one batch after the other, `allows` says for how many images there is time for more views.
    What the budget does not count is 0.

    Args:
        images: images to score.
        image_seconds: seconds per image; of several ranks that share the images, seconds of all of them together.
        view_seconds: seconds per view of an image as a rule, where further views can be left out; else None.
        views: views per image on average.
        begin_seconds: seconds before the first image is scored.
        finish_seconds: seconds after the last image was scored.
        saves: checkpoints to write.
        save_seconds: seconds per checkpoint.
        calibration_images: images to score in one view before, to fit the temperature on.
        spread: how many times as long as the last time something may take that happens once.
        most_margin: seconds to keep at most for what happens once to take longer than the last time.
        most_optional: seconds to keep at most for views that can be left out.
    """

    images: int = 0
    image_seconds: float = 0.0
    view_seconds: float | None = None
    views: float = 1.0
    begin_seconds: float = 0.0
    finish_seconds: float = 0.0
    saves: int = 0
    save_seconds: float = 0.0
    calibration_images: int = 0
    spread: float = 1.0
    most_margin: float = math.inf
    most_optional: float = math.inf
    pacing: Pacing = PACING
    _seconds_left: Callable[[], float] | None = field(default=None, init=False, repr=False)
    _latest: deque[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._latest = deque(maxlen=self.pacing.recent_steps)

    @property
    def least(self) -> float:
        """Seconds to keep for what cannot be left out, should it take longer than measured."""
        return self._bounds()[0]

    @property
    def seconds(self) -> float:
        """Seconds to keep. Views that can be left out get no margin of their own: their time is the margin of all else,
        which therefore counts as long as it takes as a rule."""
        return self._bounds()[1]

    @property
    def spare(self) -> float:
        """Seconds that are kept for nothing but views that can be left out."""
        least, seconds = self._bounds()
        return seconds - least

    def _bounds(self) -> tuple[float, float]:
        """`least` and `seconds`: together, since a step asks for them some ten times."""
        images, usual, optional = self.images * self.views, self.image_seconds, 0.0
        if self.view_seconds is not None:
            images, usual = self.images * 1.0, min(usual, self.view_seconds)
            optional = min(self.images * (self.views - 1) * self.view_seconds, self.most_optional)
        images += self.calibration_images * bool(self.images)
        once = self.begin_seconds * bool(self.images) + self.finish_seconds + self.saves * self.save_seconds
        margin = min((self._once_factor - 1) * once, self.most_margin)
        least = self.pacing.reserve_factor * (images * self.image_seconds) + once + margin
        return least, max(least, images * usual + once + optional)

    @property
    def _finish(self) -> float:
        """Seconds to keep for what follows scoring: further views must not use them up.

        The results are flushed to the disk after a digest of the weights, like the checkpoint just before, so beside
        much other work they may take as long as that did.
        """
        seconds = self.finish_seconds
        if seconds and not self.images:
            seconds = max(seconds, self.save_seconds)
        return self._once_factor * seconds

    @property
    def _once_factor(self) -> float:
        """Something that happens once counts as this many times as long as the last time."""
        return min(max(self.spread, self.pacing.reserve_factor), self.pacing.max_spread)

    def update(
        self,
        *,
        image_seconds: float | None = None,
        view_seconds: float | None = None,
        views: float | None = None,
        save_seconds: float | None = None,
    ) -> None:
        """Take over what was measured anew; None leaves a value as it is."""
        self.image_seconds = self.image_seconds if image_seconds is None else image_seconds
        self.view_seconds = self.view_seconds if view_seconds is None else view_seconds
        self.views = self.views if views is None else views
        self.save_seconds = self.save_seconds if save_seconds is None else save_seconds

    def state(self) -> dict[str, Any]:
        """The measured values, for a checkpoint; `update(**state)` restores them."""
        names = ("image_seconds", "view_seconds", "views", "save_seconds")
        return {name: getattr(self, name) for name in names}

    def start_scoring(self, images: int, seconds_left: Callable[[], float]) -> None:
        """Begin to score `images` images; `seconds_left` says at any time how many seconds of the budget are left."""
        self.images, self._seconds_left = images, seconds_left
        self._latest.clear()

    def scored(self, images: int, seconds: float) -> None:
        """Record that the next batch was scored, in one view of each image, and how many seconds that took."""
        self.images = max(0, self.images - images)
        self.image_seconds = seconds / images
        self._latest.append(self.image_seconds)

    def has_time(self, images: int) -> bool:
        """Whether to score the next batch, of `images` images, in one view: the first one always, others in time."""
        if self._seconds_left is None or not self._latest:
            return True
        seconds = self.pacing.reserve_factor * max(self._latest) * images
        return self._seconds_left() >= seconds + self._finish

    def viewed(self, views: int, seconds: float) -> None:
        """Record how many seconds it took to score further views, of all images together."""
        self._latest.append(seconds / views)

    def allows(self, images: int, views: int) -> int:
        """The number of images, of `images` ones, to score next in `views` further views.

        It is a portion of them, or 0 if there is no time: all images that are left must still be scored in one view,
        should each take as long as in the slowest of the latest batches, and the results be written.
        """
        if self._seconds_left is None:
            return images
        slowest = self.pacing.reserve_factor * max(self._latest, default=self.image_seconds)
        left = self._seconds_left() - self._finish - self.images * slowest
        each = slowest * views
        if left >= self.pacing.sudden_factor * each * images:
            return images
        portion = min(images, max(self.pacing.least_portion, int(min(self.pacing.portion_seconds, left) / each)))
        return 0 if left < each * portion else portion
