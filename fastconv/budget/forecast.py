"""The forecast of a run: the steps that fit into the budget, and the time and disk space that it needs."""

import dataclasses
import math
from dataclasses import dataclass

from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.pacing import PACING
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.config.schema import Config
from fastconv.data.stream.spec import StreamSpec
from fastconv.models.configs import Pretrained
from fastconv.models.resizing import Resizing
from fastconv.models.tta import Views


@dataclass(frozen=True)
class Forecast:
    """The expected course of a run.

    Args:
        max_steps: optimizer steps that `schedule.max_epochs` allows; None without a bound.
        steps, epochs: expected steps and epochs.
        seconds: expected seconds of training and validation.
        step_seconds: seconds of a step, until the run has measured one.
        reserve: time to keep for the end of the run.
        stream_epochs: epochs to precompute; 0 if the stream is computed while training.
    """

    max_steps: int | None
    steps: int
    epochs: float
    seconds: float
    step_seconds: float
    reserve: ScoringReserve
    stream_epochs: int


def scored_images(config: Config, holdout: int, test: int) -> int:
    """Number of images that are scored after training, in time that the budget counts.

    Args:
        holdout, test: number of held-out images, and of images of the test split.
    """
    counts = config.budget.counts
    return holdout * ("validate" in counts and config.validate.on == "holdout") + test * ("test" in counts)


def forecast(
    config: Config,
    spec: StreamSpec,
    speed: SpeedProfile,
    validate_images: int,
    scored: int,
    views: Views,
    begin_seconds: float,
    already_counted: float,
) -> Forecast:
    """Forecast a run from the measured speed.

    A benchmark may have been disturbed, or the machine may be quieter by then, so that at least one step is expected,
    and what the run relies on before its own measurements is bounded.

    Args:
        config: of the run.
        spec: its stream.
        speed: its network's speed profile on this machine.
        validate_images: images of one validation during training (0 for none).
        scored: images scored after training (`scored_images`).
        views: views in which an image is scored after training.
        begin_seconds: seconds before the first of them is scored.
        already_counted: seconds of the budget that are spent.
    """
    counts, seconds = config.budget.counts, config.budget.seconds
    validate_seconds = validate_images * speed.score_seconds
    reserve = ScoringReserve(
        images=scored,
        image_seconds=speed.score_seconds,
        views=views.count,
        begin_seconds=begin_seconds,
        saves=int(config.checkpoint.save and "checkpoint" in counts),
        calibration_images=(
            # One rank scores them, while the others wait.
            min(PACING.calibration_images, spec.samples) * config.trainer.world
            if config.label_smoothing and "test" in counts
            else 0
        ),
    )
    bound_epochs = config.schedule.max_epochs
    max_steps = None if bound_epochs is None else max(1, round(bound_epochs * spec.samples / config.batch_size))
    step_epochs = config.batch_size / spec.samples
    # Each step takes its share of the validations, one in every `validate.every` epochs.
    share = validate_seconds * step_epochs / config.validate.every if "validate" in counts else 0.0
    steps, step_seconds = math.inf if max_steps is None else max_steps, speed.step_seconds
    # How many times as many steps fit into the same time, where some of them leave out work.
    gain = Resizing(config.progressive_resizing).gain
    if isinstance(config.model, Pretrained):
        gain *= config.model.gain
    mean_step_seconds = step_seconds / gain
    if seconds is not None:
        left = max(seconds - already_counted, 0.0)
        step_seconds = min(step_seconds, PACING.unmeasured_step_share * left) or step_seconds
        reserve = _bounded(reserve, PACING.unmeasured_share * left)
        # By the end it will be known how many images need all views.
        expected = dataclasses.replace(reserve, views=views.scored(PACING.uncertain))
        available = seconds - expected.seconds - already_counted
        steps = min(steps, max(1, int(available / (mean_step_seconds + share))))
    epochs = steps * step_epochs
    most_epochs = math.inf if max_steps is None else max_steps * step_epochs
    return Forecast(
        max_steps=max_steps,
        steps=int(steps),
        epochs=epochs,
        seconds=steps * (mean_step_seconds + share),
        step_seconds=step_seconds,
        reserve=reserve,
        stream_epochs=_stream_epochs(config, spec, epochs, most_epochs) if config.stream.is_stored else 0,
    )


def _stream_epochs(config: Config, spec: StreamSpec, epochs: float, most_epochs: float) -> int:
    """Epochs to precompute for a run of about `epochs` epochs, which ends after `most_epochs` of them."""
    is_limited = config.budget.seconds is not None
    wanted = min(PACING.stream_margin * epochs if is_limited else epochs, most_epochs)
    # What a fast machine needs beyond the disk's share is augmented while training: the same bytes.
    planned = max(1, min(math.ceil(wanted - 1e-9), int(config.stream.max_bytes / spec.epoch_bytes)))
    if config.stream.epochs is None:
        return planned
    # With a time limit a stream grows behind the reader; without one it is made as long as the run at once.
    return config.stream.epochs if is_limited else max(planned, config.stream.epochs)


def _bounded(reserve: ScoringReserve, seconds: float) -> ScoringReserve:
    """The reserve, or a part of it that is `seconds` long."""
    if not 0 < seconds < reserve.seconds:
        return reserve
    part = seconds / reserve.seconds
    return dataclasses.replace(
        reserve, image_seconds=part * reserve.image_seconds, begin_seconds=part * reserve.begin_seconds
    )
