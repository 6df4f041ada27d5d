"""Candidate networks for a budget, and which of them is expected to have the least error.

How many images a network would see is measured by a short benchmark on this machine, or estimated from a smaller
network's where that would take too much of the budget. The error after that many images is predicted by
`fastconv.budget.autotune.scaling_law`.
"""

import dataclasses
import math

from fastconv.budget.autotune.candidate import Candidate
from fastconv.budget.autotune.data_pruning import proxy_steps
from fastconv.budget.autotune.from_largest import fastest_profile, from_largest
from fastconv.budget.autotune.scaling_law import ModelSize, model_size, pruning_proxy, size_families
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import SpeedProfiles, faster, image_seconds, network_name, scaled
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.pacing import PACING
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData
from fastconv.models.configs import TTA, Network
from fastconv.models.resizing import LEAST_SIDE, Resizing
from fastconv.models.tta import views_of


class Candidates:
    """Scores candidate networks for a budget; `reason` explains the pick.

    Args:
        config: settings that are not open, and the budget in seconds.
        open_choices: what autotune chooses, of the keys of `fastconv.config.schema.CHOICES`.
        train: the training images.
        scored: number of images that are scored after training.
        profiles: measures networks.
        budget_seconds: the whole budget.
        benchmark_seconds: those of it for all benchmarks, the first of the smallest network aside.
        seconds: those of it for training and scoring.
        flip: share of the training images that are flipped, where there is time for it.
        other_look: whether flipped images are of the same class, but look different.
        may_resize: whether progressive resizing was measured on such a device.
        operations_per_second: of a matrix product, on a GPU, where sizes are tried from the largest down; else None.
    """

    def __init__(
        self,
        config: Config,
        open_choices: list[str],
        train: ImageData,
        scored: int,
        profiles: SpeedProfiles,
        *,
        budget_seconds: float,
        benchmark_seconds: float,
        seconds: float,
        flip: float,
        other_look: bool,
        may_resize: bool = False,
        operations_per_second: float | None = None,
        settings: Autotune = AUTOTUNE,
    ) -> None:
        self._config, self._open, self._train = config, open_choices, train
        self._scored, self._profiles, self._operations = scored, profiles, operations_per_second
        self._budget_seconds, self._benchmark_seconds, self.seconds = budget_seconds, benchmark_seconds, seconds
        self._flip, self._other_look, self._settings = flip, other_look, settings
        self._may_resize = may_resize and "progressive_resizing" in open_choices
        self._benchmarks_took = 0.0
        self.reason: str | None = None

    def best(self) -> Candidate:
        """The candidate with the least expected error.

        Sizes are tried from the smallest of each family on, until the next one would have a larger error: those above
        it, and those of the next family, would see even fewer images. (On a GPU: `from_largest`.) A network with
        time for hardly a step is not a candidate, except for the smallest one. With few images, the smallest one is not
        a candidate either, if another one has time.
        """
        if "model" not in self._open:
            return self._candidate(self._config.model, self._profiles.profile(self._config.model))
        tried: list[tuple[ModelSize, Candidate]] = []
        families, has_few = size_families(self._train.side, self._train.channels), self._has_few_images
        has_smallest = len(families) == 1  # fast sizes take its place
        families = families[-1:] if has_few else families
        if self._operations is not None:
            tried = self._tried_from_largest([size for family in families for size in family], self._operations)
        for family in families if self._operations is None else ():
            found, is_over = self._tried(family, tried[-1:])
            tried += found
            if is_over:
                break
        smallest = int(has_few and has_smallest and len(tried) > 1)
        index = min(range(smallest, len(tried)), key=lambda index: self._log_error(*tried[index]))
        self.reason = self._explained(tried, index, smallest)
        return tried[index][1]

    def _explained(self, tried: list[tuple[ModelSize, Candidate]], index: int, smallest: int) -> str:
        """Why the candidate at `index` is the best: the expected errors of the next smaller and the next larger one.

        Args:
            smallest: index of the smallest one that counts.
        """
        best, least = tried[index][1], self._log_error(*tried[index])
        reasons = [f"{network_name(best.network)}, {self.epochs(best):.1f} epochs in {self.seconds:,.0f} s"]
        for size, other in tried[max(smallest, index - 1) : index] + tried[index + 1 : index + 2]:
            more = math.exp(self._log_error(size, other) - least) - 1
            name, epochs = network_name(other.network), self.epochs(other)
            reasons.append(f"{name} would see {epochs:.1f} epochs and make {more:.0%} more errors")
        return "; ".join(reasons)

    def _tried(
        self, family: tuple[ModelSize, ...], before: list[tuple[ModelSize, Candidate]]
    ) -> tuple[list[tuple[ModelSize, Candidate]], bool]:
        """The sizes of a family that are worth a try, as candidates, and whether larger ones would do worse.

        Args:
            before: the last one of the family before, if there is one.
        """
        tried: list[tuple[ModelSize, Candidate]] = []
        for size in family:
            candidate = self._candidate(size.network, self._speed(size, tried, before))
            if (tried or before) and candidate.images < self._settings.least_steps * candidate.batch_size:
                return tried, True
            tried.append((size, candidate))
            if len(tried) > 1 and self._log_error(*tried[-1]) > self._log_error(*tried[-2]):
                return tried, True
        return tried, False

    def _tried_from_largest(
        self, sizes: list[ModelSize], operations_per_second: float
    ) -> list[tuple[ModelSize, Candidate]]:
        """The sizes that are worth a try on a GPU, as candidates, smallest first (see `from_largest`)."""

        def measure(size: ModelSize, estimate: SpeedProfile | None) -> SpeedProfile:
            if estimate and self._benchmarks_took + estimate.benchmark_seconds > self._benchmark_seconds:
                return estimate
            return self._measure(size.network)

        return from_largest(
            sizes,
            lambda size, speed: self._candidate(size.network, speed),
            self._log_error,
            lambda size: fastest_profile(size, self._train.side, operations_per_second, self._settings),
            measure,
        )

    @property
    def _has_few_images(self) -> bool:
        """Whether there are too few images to learn from for the smallest networks."""
        return len(self._train) < self._settings.few_images

    def epochs(self, candidate: Candidate) -> float:
        """Epochs that a candidate would be trained for."""
        return candidate.images / len(self._train)

    @property
    def max_images(self) -> float:
        """Images, repeats included, after which more bring nothing or the config ends training."""
        if "epochs" not in self._open:
            epochs = self._config.schedule.max_epochs
            return math.inf if epochs is None else epochs * len(self._train)
        count = len(self._train)
        return self._settings.max_epochs * math.sqrt(max(self._settings.max_epochs_images, count) * count)

    def pruning_seconds(self, candidate: Candidate) -> float | None:
        """Seconds of data pruning before training; None if that is too long, or no gain was measured for such runs."""
        settings, size = self._settings, model_size(candidate.network, self._train.side, self._train.channels)
        fewest, most = settings.pruning_epochs
        pays = size is not None and size.pruning_pays and candidate.flip > 0
        if "data_pruning" not in self._open or not pays or not fewest <= self.epochs(candidate) <= most:
            return None
        profile = self._profiles.profile(pruning_proxy(self._train.side))
        steps, batch_size = proxy_steps(len(self._train), settings)
        step_seconds = image_seconds(profile, settings) * batch_size + profile.update_seconds
        seconds = steps * step_seconds + len(self._train) * profile.score_seconds
        return seconds if seconds <= settings.pruning_share * self._budget_seconds else None

    def _speed(
        self, size: ModelSize, tried: list[tuple[ModelSize, Candidate]], before: list[tuple[ModelSize, Candidate]]
    ) -> SpeedProfile:
        """The network's speed profile: measured, or estimated from that of the one before it.

        In a family, a larger network takes longer, but by no more than its arithmetic: where a measurement says
        otherwise, other work may have disturbed it or the one before, so that it is confirmed or bounded. What was
        wrong is not kept.
        """
        if not tried and not before:
            return self._measure(size.network)
        settings, (smaller, candidate) = self._settings, (tried or before)[-1]
        growth = size.flops / smaller.flops
        estimate = scaled(candidate.speed, growth**settings.time_exponent)
        if self._benchmarks_took + estimate.benchmark_seconds > self._benchmark_seconds:
            return estimate
        measured = self._measure(size.network)
        if not tried:
            return measured
        if measured.step_seconds < candidate.speed.step_seconds:
            confirmed = self._confirm(smaller.network, candidate.speed)
            if measured.step_seconds < confirmed.step_seconds:
                self._profiles.forget(confirmed)
            tried[-1] = smaller, self._candidate(smaller.network, faster(confirmed, measured))
            return measured
        bound = scaled(candidate.speed, growth * settings.max_time_growth)
        if measured.step_seconds > bound.step_seconds:
            measured = self._confirm(size.network, measured)
            if measured.step_seconds > bound.step_seconds:
                self._profiles.forget(measured)
        return faster(measured, bound)

    def _measure(self, network: Network, repeats: int = 1) -> SpeedProfile:
        """The network's speed profile by this number of benchmarks."""
        measured = self._profiles.profile(network, repeats)
        self._benchmarks_took += measured.benchmark_seconds + (measured.first_seconds if repeats == 1 else 0.0)
        return measured

    def _confirm(self, network: Network, measured: SpeedProfile) -> SpeedProfile:
        """The network's speed profile after another benchmark, if there is time for one."""
        if self._benchmarks_took + measured.benchmark_seconds > self._benchmark_seconds:
            return measured
        return self._measure(network, repeats=2)

    def _log_error(self, size: ModelSize, candidate: Candidate) -> float:
        """Expected log error: the scaling law's, less what data pruning and flips of another look gain."""
        settings, gain = self._settings, 0.0
        if self._other_look and candidate.flip > 0:
            doublings = math.log2(self.epochs(candidate) / settings.other_look_min_epochs)
            gain = settings.other_look_gain * min(1.0, doublings)
        pruning_gain = settings.pruning_gain if self.pruning_seconds(candidate) is not None else 0.0
        many = max(1.0, len(self._train.classes) / settings.fitted_classes)
        return size.log_error(candidate.images / many**settings.classes_exponent) - gain - pruning_gain

    def _candidate(self, network: Network, speed: SpeedProfile) -> Candidate:
        """The network in the budget; without flips where a run is too short to learn those of another look."""
        candidate = self._within_budget(network, speed, self._flip)
        if self._other_look and self.epochs(candidate) < self._settings.other_look_min_epochs:
            return self._within_budget(network, speed, 0.0)
        return candidate

    def _within_budget(self, network: Network, speed: SpeedProfile, flip: float) -> Candidate:
        """The network in the budget, with this share of flipped images."""
        tta = self._tta(speed, flip) if "tta" in self._open else self._config.tta
        scoring = min(self._scored_views(tta, flip) * speed.score_seconds, PACING.unmeasured_share * self.seconds)
        seconds = self.seconds - scoring
        per_image, batch_size = image_seconds(speed, self._settings), self._config.batch_size
        if "batch_size" in self._open:
            batch_size = self._batch_size(min(self.max_images, seconds / per_image))
        candidate = Candidate(network, speed, per_image, 0.0, batch_size, tta, flip, self._config.progressive_resizing)
        images = seconds / candidate.step_seconds * batch_size
        if "progressive_resizing" in self._open:
            resizing = self._settings.resized_share if self._resizing_pays(network, images) else 0.0
            candidate = dataclasses.replace(candidate, resizing=resizing)
        images *= Resizing(candidate.resizing).gain
        return dataclasses.replace(candidate, images=min(self.max_images, images))

    def _resizing_pays(self, network: Network, images: float) -> bool:
        """Whether a gain was measured with this network, for a training over about this number of images."""
        side, size = self._train.side, model_size(network, self._train.side, self._train.channels)
        is_measured = self._may_resize and size is not None and size.resizing_pays and side >= LEAST_SIDE
        return is_measured and images <= self._settings.resizing_epochs * len(self._train)

    def _batch_size(self, images: float) -> int:
        """The largest batch size that leaves enough optimizer steps in a run over this many images."""
        sizes = self._settings.steps_for_batch_size
        fitting = (size for size, steps in sizes.items() if size * steps <= images and size <= len(self._train))
        return next(fitting, len(self._train))

    def _scored_views(self, tta: TTA, flip: float) -> float:
        """Views that are scored after training, of all images."""
        return self._scored * views_of(tta, flip > 0).scored(PACING.uncertain)

    def _tta(self, speed: SpeedProfile, flip: float) -> TTA:
        """The most views that can be scored in their share of the budget."""
        settings, smoothing, flips = self._settings, self._config.label_smoothing, flip > 0
        # Smoothed labels allow no higher probability than the term in brackets.
        threshold = settings.confidence_threshold * (1 - smoothing + smoothing / len(self._train.classes))
        # A view shifted by a pixel, out of eight around an image, must not be as far off as training images are:
        # where those are shifted by a pixel only, the image itself does better.
        has_neighbors = shift_pixels(self._train, settings.shift_part) > 1
        base = dataclasses.replace(
            self._config.tta, confidence_threshold=threshold, extend="neighbors" if has_neighbors else "diagonal"
        )
        options = [(1, True, settings.neighbor_views_share)] * has_neighbors
        options += [(1, False, settings.diagonal_views_share), *[(0, False, settings.flip_view_share)] * flips]
        for shift, neighbors, share in options:
            tta = dataclasses.replace(base, flip=flips, shift=shift, neighbors=neighbors)
            if self._scored_views(tta, flip) * speed.score_seconds <= share * self._budget_seconds:
                return tta
        return dataclasses.replace(base, flip=False, shift=0)


def shift_pixels(images: ImageData, part: int) -> int:
    """Pixels by which training images are shifted at most: one `part`-th of their shorter side, and at least one."""
    return max(1, round(images.side / part))
