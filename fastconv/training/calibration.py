"""Fits the temperature of a network that was trained on smoothed labels, before it is saved and scored."""

import dataclasses
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from fastconv.budget.forecast import scored_images
from fastconv.data.augment.policy import PLAIN
from fastconv.data.dataset import ImageData, images_at_once
from fastconv.data.stream.spec import Batch, OnlineStream, StreamSpec
from fastconv.models.temperature import TEMPERATURE, fit_on_training_images, fit_temperature
from fastconv.training.callbacks import TimeBudget
from fastconv.training.module import ImageClassifier
from fastconv.training.plan import Run

# Images to score at once: few, since there may be time for some of them only.
BATCH_SIZE = 250


def calibrate(
    run: Run,
    trainer: L.Trainer,
    module: ImageClassifier,
    budget: TimeBudget,
    checkpoint: dict[str, Any] | None = None,
) -> None:
    """Set `module.temperature`, if the run smooths labels and its budget has time for some images. On every rank.

    The images are held out, or set aside, or, where none are, the next ones of the training stream, which a run of less
    than an epoch has not seen, without augmentation. The first rank's temperature counts.

    Args:
        checkpoint: of an earlier process that has trained the network. It may have fitted the temperature too; if not,
            the temperature is written there.
    """
    checkpoint = {} if checkpoint is None else checkpoint
    module.temperature = checkpoint.get(TEMPERATURE)
    if module.temperature is not None or not run.config.label_smoothing:
        return
    shared = torch.distributed.is_initialized()  # if not, each rank finds the same
    with run.clock.segment("test"):
        temperature = _fitted(run, trainer, module, budget) if trainer.is_global_zero or not shared else None
    module.temperature = trainer.strategy.broadcast(temperature) if shared else temperature
    checkpoint[TEMPERATURE] = module.temperature


def calibration_images(spec: StreamSpec, train: ImageData, unseen: ImageData, seen: int, count: int) -> Batch:
    """Images uint8 [N, H, W, C] and labels int64 [N] to fit the temperature on, at most `count`, in a random order.

    Args:
        seen: number of the stream's samples that the network was trained on.
    """
    if len(unseen):
        rows = torch.linspace(0, len(unseen) - 1, min(count, len(unseen))).long().numpy()
        # There may be time for the first ones only, and images of one's own are in the order of their classes.
        rows = np.random.default_rng(0).permutation(rows)
        return unseen.images[rows], unseen.labels[rows]
    # In the same order, but as often as there are images of a class: the temperature is for images as they come.
    plain = dataclasses.replace(spec, policy=PLAIN, sampling="")
    return OnlineStream(plain, dataclasses.replace(train, sampling=None)).rows(seen, seen + min(count, spec.samples))


def _fitted(run: Run, trainer: L.Trainer, module: ImageClassifier, budget: TimeBudget) -> float | None:
    """The temperature; None if there is no time for any image, or if the network gives no finite logits."""
    reserve, counts, limit = dataclasses.replace(budget.reserve), budget.counts, budget.seconds
    if limit is not None and "test" in counts:
        # What is left must do for scoring the other images in one view, and for the checkpoint.
        saving = reserve.pacing.reserve_factor * reserve.saves * reserve.save_seconds
        scored = scored_images(run.config, len(run.holdout), len(run.test))
        ranks = trainer.world_size  # of which this one fits alone, and then scores its share of the images
        reserve.update(image_seconds=ranks * reserve.image_seconds)
        reserve.start_scoring(-(-scored // ranks), lambda: limit - saving - budget.elapsed())
    seen, count = budget.steps * run.config.batch_size, reserve.pacing.calibration_images
    images, labels = calibration_images(run.spec, run.train, run.unseen, seen, count)
    device, found = trainer.strategy.root_device, list[Tensor]()
    module.eval().to(device)  # Lightning moves it to the CPU after training
    size = min(BATCH_SIZE, images_at_once(images.shape[1:]))
    for start in range(0, len(labels), size):
        batch = torch.from_numpy(images[start : start + size])
        count = reserve.allows(len(batch), 1)
        if not count:
            break
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            found.append(module(batch[:count].to(device)).float().cpu())
        if count < len(batch):  # time is short
            break
    logits = torch.cat(found) if found else torch.empty(0)
    if not len(logits) or not torch.isfinite(logits).all():
        return None
    known = torch.from_numpy(labels[: len(logits)])
    if len(run.unseen):
        return fit_temperature(logits, known)
    return fit_on_training_images(logits, known, run.config.label_smoothing, seen / len(run.train))
