"""The plan of a run: what will fit into the budget, and what it needs. Printed before anything long starts."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from fastconv.budget.benchmark import SpeedProfile, require_seconds
from fastconv.budget.hardware import Device
from fastconv.budget.pacing import Reserve
from fastconv.config.schema import Config
from fastconv.data.stream.spec import StreamSpec
from fastconv.models.tta import UNCERTAIN, Views
from fastconv.runs.results import Results

# Epochs precomputed beyond those expected: a machine may turn out faster than its speed.
STREAM_MARGIN = 1.15
# Balanced accuracy is told if it is further from accuracy than this.
UNLIKE = 0.005


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to do.

    `max_steps`: optimizer steps that `schedule.max_epochs` allows, or None. `steps`, `epochs`: expected. `seconds`:
    expected for training and validation. `reserve`: for what the budget counts after training. `stream_epochs`: epochs
    to precompute (0 if online).
    """

    max_steps: int | None
    steps: int
    epochs: float
    seconds: float
    reserve: Reserve
    stream_epochs: int


def forecast(
    config: Config,
    spec: StreamSpec,
    speed: SpeedProfile,
    validate_images: int,
    final_images: int,
    test_images: int,
    views: Views,
    begin_seconds: float,
    already_counted: float,
) -> Forecast:
    """Plan a run from the speed.

    Args:
        validate_images: images of one validation during training (0 for none).
        final_images: held-out images scored after training (0 for none).
        test_images: images of the test split.
        views: in which an image is scored after training.
        begin_seconds: before the first of them is scored.
        already_counted: seconds of the budget that are spent.

    Raises InputError for a budget that is too short for one step.
    """
    counts, seconds = config.budget.counts, config.budget.seconds
    validate_seconds = validate_images * speed.score_seconds
    reserve = Reserve(
        images=final_images * ("validate" in counts) + test_images * ("test" in counts),
        image_seconds=speed.score_seconds,
        views=views.count,
        begin_seconds=begin_seconds,
        saves=int(config.checkpoint.save and "checkpoint" in counts),
    )
    bound_epochs = config.schedule.max_epochs
    max_steps = None if bound_epochs is None else max(1, round(bound_epochs * spec.samples / config.batch_size))
    step_epochs = config.batch_size / spec.samples
    # A validation every so many epochs slows each step down by its share.
    share = validate_seconds * step_epochs / config.validate.every if "validate" in counts else 0.0
    steps = math.inf if max_steps is None else max_steps
    if seconds is not None:
        require_seconds(seconds, speed.step_seconds, reserve.seconds + already_counted)
        # By the end it will be known how many images need all views.
        expected = dataclasses.replace(reserve, views=views.scored(UNCERTAIN))
        available = seconds - expected.seconds - already_counted
        steps = min(steps, max(1, int(available / (speed.step_seconds + share))))
    epochs = steps * step_epochs
    wanted = epochs if seconds is None else STREAM_MARGIN * epochs
    if max_steps is not None:
        wanted = min(wanted, max_steps * step_epochs)
    # What a fast machine needs beyond the disk's share is augmented while training: the same bytes.
    stream_epochs = max(1, min(math.ceil(wanted - 1e-9), int(config.stream.max_gb * 1e9 / spec.epoch_bytes)))
    if config.stream.epochs is not None:
        # With a time limit a stream grows behind the reader; without one it is made as long as the run at once.
        stream_epochs = config.stream.epochs if seconds is not None else max(stream_epochs, config.stream.epochs)
    return Forecast(
        max_steps=max_steps,
        steps=int(steps),
        epochs=epochs,
        seconds=steps * (speed.step_seconds + share),
        reserve=reserve,
        stream_epochs=stream_epochs if config.stream.mode == "precomputed" else 0,
    )


def plan_table(
    config: Config,
    images: int,
    spec: StreamSpec,
    device: Device,
    speed: SpeedProfile,
    plan: Forecast,
    parameters: int,
    more: Mapping[str, str],
) -> Table:
    """The plan as a person reads it, of so many images to learn from, with `more` rows."""
    budget, schedule = config.budget, config.schedule
    limit = "no time limit" if budget.seconds is None else f"{budget.seconds:g} s for {' + '.join(budget.counts)}"
    bound = "as many epochs as fit" if schedule.max_epochs is None else f"at most {schedule.max_epochs:g} epochs"
    height, width, channels = spec.shape
    described = f"{images:,} training images {width}x{height}x{channels}, {len(spec.classes)} classes"
    if spec.samples != images:
        described += f"; {spec.samples:,} of them in each epoch"
    stream = "augmented while training"
    if plan.stream_epochs:
        size = plan.stream_epochs * spec.epoch_bytes / 1e6
        stream = f"{plan.stream_epochs} epochs, {size:,.0f} MB in {config.stream.root}"
        stream += "; the others augmented while training" * (plan.stream_epochs < plan.epochs - 1e-9)
    step = [device.precision, "channels_last" if config.trainer.channels_last else "contiguous"]
    step += [f"{device.threads} threads"] * (device.kind == "cpu")
    step += ["keeps freed memory"] * device.keep_memory
    step += ["compiled"] * device.compile
    rows = {
        "dataset": f"{config.dataset.name}: {described}",
        "model": f"{config.model.name}: {parameters:,} parameters",
        "batch": f"{config.batch_size} images in parts of {config.micro_batch_size}",
        "device": device.name,
        "step": ", ".join(step),
        "speed": f"{config.batch_size / speed.step_seconds:,.0f} images/s (benchmark)",
        "budget": f"{limit}; {bound}",
        "expected": f"{plan.epochs:.1f} epochs, {plan.steps:,} steps in {plan.seconds:,.0f} s",
        "stream": stream,
        "memory": f"about {speed.memory_mb / 1e3:.1f} GB" + (" on the GPU" if device.kind == "cuda" else ""),
        "outputs": config.outputs,
        **more,
    }
    table = Table(title="plan", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def results_table(results: Results, folder: Path) -> Table:
    """What came out of a run, and where it lies."""
    speed = f"{results.images_per_second:,.0f} images/s"
    rows = {
        "accuracy": f"{results.accuracy:.2%} of the test images (loss {results.loss:.4f});"
        f" {results.accuracy_tta:.2%} with test-time augmentation",
        "training": f"{results.epochs:.2f} epochs, {results.steps:,} steps at {speed}",
        "ended by": results.stop_reason,
        "budget": f"{results.seconds_counted:.1f} s counted"
        + (f" of {results.budget_seconds:g} s" if results.budget_seconds else ""),
        "seconds": "  ".join(f"{name} {spent:.1f}" for name, spent in results.seconds.items() if spent >= 0.05),
        "waiting for data": f"{results.dataloader_wait_fraction:.2%} of the training time",
        "run": str(folder),
        "dashboard": f"tensorboard --logdir {folder}",
    }
    if results.tta_skipped:
        rows["accuracy"] += f", for which there was no time with {results.tta_skipped:,} of them"
    if abs(results.balanced_accuracy - results.accuracy) > UNLIKE:
        rows["class by class"] = f"balanced accuracy {results.balanced_accuracy:.2%}, macro F1 {results.macro_f1:.3f}"
    if results.accuracy_holdout is not None:
        rows["held-out part"] = f"{results.accuracy_holdout:.2%}; {results.accuracy_holdout_tta:.2%}"
    table = Table(title="result", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table
