"""What each network could do in a budget, and which of them is expected to err least.

How many images a network would see is measured, by a short benchmark at it on this machine (or, where that would take too
much of the budget, at a smaller one); what it would learn from them is the law of
`fastconv.budget.autotune.scaling_law`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from fastconv.budget.autotune.data_pruning import PROXY, proxy_steps
from fastconv.budget.autotune.scaling_law import MODEL_SIZES, PRUNED, PRUNED_EPOCHS, PRUNED_GAIN, ModelSize
from fastconv.budget.autotune.speed import BATCH, DISTURBED, GROWTH, SpeedProfiles, faster, network_name, slower
from fastconv.budget.benchmark import SpeedProfile
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData
from fastconv.models.configs import TTA
from fastconv.models.tta import UNCERTAIN, views_of

# Shares of the budget, at most: for scoring the image and its mirror image, which are worth most, views along the
# diagonal, in all directions.
MIRRORED, DIAGONAL, AROUND = 0.2, 0.1, 0.05
# More views change nothing for images whose answer is so sure, compared with how sure it can be.
SURE = 0.85

# And for finding the images that rest.
MARK = 0.06

# Sizes of a batch, and optimizer steps that a run should have of them; else the next smaller one is taken. The
# 1000 steps are a guess: of 400 and fewer, smaller batches are better.
STEPS = {2000: 1000, 1000: 180, 500: 180, 250: 180, 125: 0}
# Epochs after which more bring nothing, with as many images as CIFAR-10 has; with fewer, more.
MOST_EPOCHS, AT_IMAGES = 100, 45_000
# Images that benchmark unlike their mirror images, but are of the same class: a run must be so long to learn both, and gains
# this in log error after twice as many epochs or more (measured on Fashion-MNIST after 17; between the two it is a
# guess).
UNLIKE_EPOCHS, UNLIKE_GAIN = 8, 0.08


@dataclass(frozen=True)
class Candidate:
    """What a network could do in the budget: see so many images in batches of a size, and be scored in some views.

    `flip`: the share of images that are mirrored.
    """

    network: Any
    speed: SpeedProfile
    images: float
    batch_size: int
    tta: TTA
    flip: float

    @property
    def image_seconds(self) -> float:
        """Seconds of forward and backward for an image."""
        return (self.speed.step_seconds - self.speed.update_seconds) / BATCH

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimizer step."""
        return self.image_seconds * self.batch_size + self.speed.update_seconds


def moved_by(images: ImageData, part: int) -> int:
    """Pixels by which images are moved to learn from: such a part of their side."""
    return max(1, round(min(images.images.shape[1:3]) / part))


class Candidates:
    """What networks candidate, as far as `chosen` leaves it open, and `reason`, why the best of them is.

    Args:
        chosen: what is to be chosen, of the keys of `fastconv.budget.autotune.choose.SETTLED_BY`.
        train: the images to learn from.
        scored: number of images that are scored in the end.
        benchmark_seconds: for repeats at networks, but for the first one.
        seconds: for learning and scoring.
        flip: the share of images that are mirrored, where there is time for it.
        unlike: whether mirrored images are of the same class, but benchmark different.
    """

    def __init__(
        self,
        config: Config,
        chosen: list[str],
        train: ImageData,
        scored: int,
        repeats: SpeedProfiles,
        *,
        benchmark_seconds: float,
        seconds: float,
        flip: float,
        unlike: bool,
    ) -> None:
        self._config, self._chosen, self._train, self._scored, self._profiles = config, chosen, train, scored, repeats
        self._benchmark_seconds, self._seconds, self._flip, self._unlike = benchmark_seconds, seconds, flip, unlike
        self._benchmarked: dict[str, int] = {}
        self._spent = 0.0
        self.reason: str | None = None

    def best(self, repeats: int) -> Candidate:
        """That of the network of which the law expects most, after at most so many repeats at each."""
        if "model" not in self._chosen:
            return self._candidate(self._config.model, self._profiles.at(self._config.model, repeats))
        found: list[tuple[ModelSize, Candidate]] = []
        for below, size in zip((None, *MODEL_SIZES), MODEL_SIZES, strict=False):
            guess = most = None
            if below:
                last, more = found[-1][1], size.operations / below.operations
                guess, most = slower(last.speed, more**GROWTH), slower(last.speed, more * DISTURBED)
            measured = self._benchmark(size.network, guess, repeats) or guess
            found.append((size, self._candidate(size.network, faster(measured, most) if most else measured)))
            if len(found) > 1 and self._log_error(*found[-1]) > self._log_error(*found[-2]):
                break  # those above it would see even fewer images
        at = min(range(len(found)), key=lambda at: self._log_error(*found[at]))
        best, least = found[at][1], self._log_error(*found[at])
        words = [f"{network_name(best.network)}, {self.epochs(best):.1f} epochs"]
        for size, other in found[max(0, at - 1) : at] + found[at + 1 : at + 2]:
            more = math.exp(self._log_error(size, other) - least) - 1
            words.append(
                f"{network_name(other.network)} would see {self.epochs(other):.1f} and err {more:.0%} more often"
            )
        self.reason = "; ".join(words)
        return best

    def epochs(self, candidate: Candidate) -> float:
        return candidate.images / len(self._train)

    @property
    def most_images(self) -> float:
        """Images to see at most, as more bring nothing or are not asked for."""
        if "epochs" not in self._chosen:
            epochs = self._config.schedule.max_epochs
            return math.inf if epochs is None else epochs * len(self._train)
        return MOST_EPOCHS * math.sqrt(max(AT_IMAGES, len(self._train)) * len(self._train))

    def pruning_seconds(self, candidate: Candidate) -> float | None:
        """Seconds to find the images that rest; None if none is to, as it does not pay or is not measured to."""
        least, most = PRUNED_EPOCHS
        pays = candidate.network in PRUNED and candidate.flip > 0 and least <= self.epochs(candidate) <= most
        if "data_pruning" not in self._chosen or not pays:
            return None
        measured = self._profiles.at(PROXY)
        steps, size = proxy_steps(len(self._train))
        small = Candidate(PROXY, measured, steps * size, size, candidate.tta, flip=0.0)
        seconds = steps * small.step_seconds + len(self._train) * measured.score_seconds
        return seconds if seconds <= MARK * self._config.budget.seconds else None

    def _benchmark(self, network: Any, guess: SpeedProfile | None, repeats: int) -> SpeedProfile | None:
        """The fastest of as many repeats as wanted and affordable; None if none is.

        Args:
            guess: what is expected of the first one; without it there is time for that.
        """
        name = network_name(network)
        done = self._benchmarked.get(name, 0)
        known = self._profiles.at(network, done) if done else guess
        new = repeats - done
        while known and new > 0 and new * known.benchmark_seconds > self._benchmark_seconds - self._spent:
            new -= 1
        self._benchmarked[name] = done + new
        if not self._benchmarked[name]:
            return None
        measured = self._profiles.at(network, done + new)
        self._spent += new * measured.benchmark_seconds + (0.0 if done else measured.first_seconds)
        return measured

    def _log_error(self, size: ModelSize, candidate: Candidate) -> float:
        """By the law, and by what images bring that rest, or are mirrored and make a network learn more."""
        doublings = math.log2(self.epochs(candidate) / UNLIKE_EPOCHS) if self._unlike and candidate.flip > 0 else 0.0
        skip_schedule = PRUNED_GAIN if self.pruning_seconds(candidate) is not None else 0.0
        return size.log_error(candidate.images) - UNLIKE_GAIN * min(1.0, doublings) - skip_schedule

    def _candidate(self, network: Any, measured: SpeedProfile) -> Candidate:
        candidate = self._in_time(network, measured, self._flip)
        if self._unlike and self.epochs(candidate) < UNLIKE_EPOCHS:
            return self._in_time(network, measured, 0.0)
        return candidate

    def _in_time(self, network: Any, measured: SpeedProfile, flip: float) -> Candidate:
        config, most = self._config, self.most_images
        tta = self._views(measured, flip) if "tta" in self._chosen else config.tta
        left = self._seconds - self._evaluations(tta, flip) * measured.score_seconds
        candidate = Candidate(network, measured, 0.0, config.batch_size, tta, flip)
        if "batch_size" in self._chosen:
            images = min(most, left / candidate.image_seconds)
            fit = (size for size, steps in STEPS.items() if size * steps <= images and size <= len(self._train))
            candidate = dataclasses.replace(candidate, batch_size=next(fit, len(self._train)))
        return dataclasses.replace(
            candidate, images=min(most, max(1.0, left / candidate.step_seconds * candidate.batch_size))
        )

    def _evaluations(self, tta: TTA, flip: float) -> float:
        """Images scored in the end, in all their views."""
        return self._scored * views_of(tta, flip).scored(UNCERTAIN)

    def _views(self, measured: SpeedProfile, flip: float) -> TTA:
        """The most views that can be scored in their share of the budget."""
        smoothing, mirror = self._config.label_smoothing, flip > 0
        # As sure as smoothed labels let an answer be, times a factor.
        below = SURE * (1 - smoothing + smoothing / len(self._train.classes))
        # Most of the views around an image are moved: not as far as training images, or the image itself does better.
        options = [(1, True, AROUND)] * (moved_by(self._train, 16) > 1)
        options += [(1, False, DIAGONAL), *[(0, False, MIRRORED)] * mirror]
        for shift, around, share in options:
            tta = dataclasses.replace(
                self._config.tta, flip=mirror, shift=shift, neighbors=around, confidence_threshold=below
            )
            if self._evaluations(tta, flip) * measured.score_seconds <= share * self._config.budget.seconds:
                return tta
        return dataclasses.replace(self._config.tta, flip=False, shift=0)
