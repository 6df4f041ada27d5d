"""What each network could do in a budget, and which of them is expected to err least.

How many images a network would see is measured, by a short look at it on this machine (or, where that would take too
much of the budget, at a smaller one); what it would learn from them is the law of
`fastconv.budget.autotune.scaling_law`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from fastconv.budget.autotune.data_pruning import NETWORK as MARKER
from fastconv.budget.autotune.data_pruning import lesson
from fastconv.budget.autotune.scaling_law import RESTING, RESTING_EPOCHS, RESTING_GAIN, RUNGS, Rung
from fastconv.budget.autotune.speed import BATCH, DISTURBED, GROWTH, Looks, faster, network_name, slower
from fastconv.budget.benchmark import Probe
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
# Images that look unlike their mirror images, but are of the same class: a run must be so long to learn both, and gains
# this in log error after twice as many epochs or more (measured on Fashion-MNIST after 17; between the two it is a
# guess).
UNLIKE_EPOCHS, UNLIKE_GAIN = 8, 0.08


@dataclass(frozen=True)
class Offer:
    """What a network could do in the budget: see so many images in batches of a size, and be scored in some views.

    `flip`: the share of images that are mirrored.
    """

    network: Any
    probe: Probe
    images: float
    batch_size: int
    tta: TTA
    flip: float

    @property
    def image_seconds(self) -> float:
        """Seconds of forward and backward for an image."""
        return (self.probe.step_seconds - self.probe.update_seconds) / BATCH

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimizer step."""
        return self.image_seconds * self.batch_size + self.probe.update_seconds


def moved_by(images: ImageData, part: int) -> int:
    """Pixels by which images are moved to learn from: such a part of their side."""
    return max(1, round(min(images.images.shape[1:3]) / part))


class Offers:
    """What networks offer, as far as `chosen` leaves it open, and `reason`, why the best of them is.

    Args:
        chosen: what is to be chosen, of the keys of `fastconv.budget.autotune.choose.SETTLED_BY`.
        train: the images to learn from.
        scored: number of images that are scored in the end.
        look_seconds: for looks at networks, but for the first one.
        seconds: for learning and scoring.
        flip: the share of images that are mirrored, where there is time for it.
        unlike: whether mirrored images are of the same class, but look different.
    """

    def __init__(
        self,
        config: Config,
        chosen: list[str],
        train: ImageData,
        scored: int,
        looks: Looks,
        *,
        look_seconds: float,
        seconds: float,
        flip: float,
        unlike: bool,
    ) -> None:
        self._config, self._chosen, self._train, self._scored, self._looks = config, chosen, train, scored, looks
        self._look_seconds, self._seconds, self._flip, self._unlike = look_seconds, seconds, flip, unlike
        self._looked: dict[str, int] = {}
        self._spent = 0.0
        self.reason: str | None = None

    def best(self, looks: int) -> Offer:
        """That of the network of which the law expects most, after at most so many looks at each."""
        if "model" not in self._chosen:
            return self._offer(self._config.model, self._looks.at(self._config.model, looks))
        found: list[tuple[Rung, Offer]] = []
        for below, rung in zip((None, *RUNGS), RUNGS, strict=False):
            guess = most = None
            if below:
                last, more = found[-1][1], rung.operations / below.operations
                guess, most = slower(last.probe, more**GROWTH), slower(last.probe, more * DISTURBED)
            measured = self._look(rung.network, guess, looks) or guess
            found.append((rung, self._offer(rung.network, faster(measured, most) if most else measured)))
            if len(found) > 1 and self._log_error(*found[-1]) > self._log_error(*found[-2]):
                break  # those above it would see even fewer images
        at = min(range(len(found)), key=lambda at: self._log_error(*found[at]))
        best, least = found[at][1], self._log_error(*found[at])
        words = [f"{network_name(best.network)}, {self.epochs(best):.1f} epochs"]
        for rung, other in found[max(0, at - 1) : at] + found[at + 1 : at + 2]:
            more = math.exp(self._log_error(rung, other) - least) - 1
            words.append(
                f"{network_name(other.network)} would see {self.epochs(other):.1f} and err {more:.0%} more often"
            )
        self.reason = "; ".join(words)
        return best

    def epochs(self, offer: Offer) -> float:
        return offer.images / len(self._train)

    @property
    def most_images(self) -> float:
        """Images to see at most, as more bring nothing or are not asked for."""
        if "epochs" not in self._chosen:
            epochs = self._config.schedule.epochs
            return math.inf if epochs is None else epochs * len(self._train)
        return MOST_EPOCHS * math.sqrt(max(AT_IMAGES, len(self._train)) * len(self._train))

    def marking_seconds(self, offer: Offer) -> float | None:
        """Seconds to find the images that rest; None if none is to, as it does not pay or is not measured to."""
        least, most = RESTING_EPOCHS
        pays = offer.network in RESTING and offer.flip > 0 and least <= self.epochs(offer) <= most
        if "rest" not in self._chosen or not pays:
            return None
        measured = self._looks.at(MARKER)
        steps, size = lesson(len(self._train))
        small = Offer(MARKER, measured, steps * size, size, offer.tta, flip=0.0)
        seconds = steps * small.step_seconds + len(self._train) * measured.score_seconds
        return seconds if seconds <= MARK * self._config.budget.seconds else None

    def _look(self, network: Any, guess: Probe | None, looks: int) -> Probe | None:
        """The fastest of as many looks as wanted and affordable; None if none is.

        Args:
            guess: what is expected of the first one; without it there is time for that.
        """
        name = network_name(network)
        done = self._looked.get(name, 0)
        known = self._looks.at(network, done) if done else guess
        new = looks - done
        while known and new > 0 and new * known.look_seconds > self._look_seconds - self._spent:
            new -= 1
        self._looked[name] = done + new
        if not self._looked[name]:
            return None
        measured = self._looks.at(network, done + new)
        self._spent += new * measured.look_seconds + (0.0 if done else measured.first_seconds)
        return measured

    def _log_error(self, rung: Rung, offer: Offer) -> float:
        """By the law, and by what images bring that rest, or are mirrored and make a network learn more."""
        doublings = math.log2(self.epochs(offer) / UNLIKE_EPOCHS) if self._unlike and offer.flip > 0 else 0.0
        resting = RESTING_GAIN if self.marking_seconds(offer) is not None else 0.0
        return rung.log_error(offer.images) - UNLIKE_GAIN * min(1.0, doublings) - resting

    def _offer(self, network: Any, measured: Probe) -> Offer:
        offer = self._in_time(network, measured, self._flip)
        if self._unlike and self.epochs(offer) < UNLIKE_EPOCHS:
            return self._in_time(network, measured, 0.0)
        return offer

    def _in_time(self, network: Any, measured: Probe, flip: float) -> Offer:
        config, most = self._config, self.most_images
        tta = self._views(measured, flip) if "tta" in self._chosen else config.tta
        left = self._seconds - self._evaluations(tta, flip) * measured.score_seconds
        offer = Offer(network, measured, 0.0, config.batch_size, tta, flip)
        if "batch_size" in self._chosen:
            images = min(most, left / offer.image_seconds)
            fit = (size for size, steps in STEPS.items() if size * steps <= images and size <= len(self._train))
            offer = dataclasses.replace(offer, batch_size=next(fit, len(self._train)))
        return dataclasses.replace(offer, images=min(most, max(1.0, left / offer.step_seconds * offer.batch_size)))

    def _evaluations(self, tta: TTA, flip: float) -> float:
        """Images scored in the end, in all their views."""
        return self._scored * views_of(tta, flip).scored(UNCERTAIN)

    def _views(self, measured: Probe, flip: float) -> TTA:
        """The most views that can be scored in their share of the budget."""
        smoothing, mirror = self._config.label_smoothing, flip > 0
        # As sure as smoothed labels let an answer be, times a factor.
        below = SURE * (1 - smoothing + smoothing / len(self._train.classes))
        # Most of the views around an image are moved: not as far as training images, or the image itself does better.
        options = [(1, True, AROUND)] * (moved_by(self._train, 16) > 1)
        options += [(1, False, DIAGONAL), *[(0, False, MIRRORED)] * mirror]
        for shift, around, share in options:
            tta = dataclasses.replace(self._config.tta, mirror=mirror, shift=shift, around=around, below=below)
            if self._evaluations(tta, flip) * measured.score_seconds <= share * self._config.budget.seconds:
                return tta
        return dataclasses.replace(self._config.tta, mirror=False, shift=0)
