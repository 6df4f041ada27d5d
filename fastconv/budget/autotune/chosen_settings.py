"""Puts the chosen network, batch size, augmentation and scoring into a run's config, each with its reason."""

import dataclasses

from fastconv.budget.autotune.candidate import Candidate
from fastconv.budget.autotune.candidates import Candidates, shift_pixels
from fastconv.budget.autotune.scaling_law import model_size, pruning_proxy
from fastconv.budget.autotune.settings import Autotune
from fastconv.budget.autotune.speed import network_name
from fastconv.config.schema import Config
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.dataset import ImageData
from fastconv.models.resizing import Resizing, small_side


def settings_of(
    best: Candidate,
    candidates: Candidates,
    config: Config,
    open_choices: list[str],
    device: str,
    train: ImageData,
    settings: Autotune,
) -> tuple[Config, dict[str, str]]:
    """The config with all that is open as the best candidate has it, and the reasons.

    Args:
        open_choices: of the keys of `fastconv.config.schema.CHOICES`.
        device: `cpu`, `cuda` or `mps`.
        train: the training images.
    """
    epochs, reasons = candidates.epochs(best), {}
    tuned = dataclasses.replace(config, model=best.network)
    if "flip" in open_choices:
        tuned = dataclasses.replace(tuned, dataset=dataclasses.replace(config.dataset, flip=best.flip))
    if "augment" in open_choices:
        policy, reasons["augment"] = _augmentation(best, epochs, train, settings)
        tuned = dataclasses.replace(tuned, augment=policy)
    if "data_pruning" in open_choices:
        seconds = candidates.pruning_seconds(best)
        share = 0.0 if seconds is None else settings.pruned_images
        tuned = dataclasses.replace(tuned, data_pruning=share)
        if seconds is not None:
            proxy = pruning_proxy(train.side)
            reasons["data_pruning"] = (
                f"each epoch skips {share:.0%} of the images, those on which {network_name(proxy)} is most"
                f" confident; selecting them takes about {seconds:.0f} s"
            )
    if "progressive_resizing" in open_choices:
        tuned = dataclasses.replace(tuned, progressive_resizing=best.resizing)
        if best.resizing:
            height, width = map(small_side, train.images.shape[1:3])
            reasons["progressive_resizing"] = (
                f"images have {width}x{height} pixels in the first {best.resizing:.0%} of training, which then sees"
                f" {Resizing(best.resizing).gain - 1:.0%} more images"
            )
    if "tta" in open_choices:
        tuned = dataclasses.replace(tuned, tta=best.tta)
    if "batch_size" in open_choices:
        batch_size, micro_batch_size = _batch(best.batch_size, config.trainer.world, device, settings)
        tuned = dataclasses.replace(tuned, batch_size=batch_size, micro_batch_size=micro_batch_size)
        steps = best.images / batch_size
        reasons["batch_size"] = f"{batch_size}, for {steps:,.0f} steps in {candidates.seconds:,.0f} s"
    if "epochs" in open_choices:
        max_epochs = None  # train until the time is up
        if device != "cpu" and best.images >= candidates.max_images:
            max_epochs = epochs / (1 - tuned.data_pruning)  # epochs of the images that are not skipped
            reasons["epochs"] = f"{max_epochs:.0f}, as more epochs of {len(train):,} images would gain nothing"
        schedule = dataclasses.replace(config.schedule, max_epochs=max_epochs)  # type: ignore[type-var]
        tuned = dataclasses.replace(tuned, schedule=schedule)
    return tuned, reasons


def _batch(size: int, devices: int, device: str, settings: Autotune) -> tuple[int, int]:
    """A batch size near `size`, and a micro batch size of which every device has the same number in a batch."""
    on_device = max(2, size // devices)
    micro = on_device if device != "cpu" else min(settings.cpu_micro_batch_size, on_device)
    return devices * micro * (on_device // micro), micro


def _augmentation(best: Candidate, epochs: float, train: ImageData, settings: Autotune) -> tuple[Policy, str]:
    """The augmentation, and the reason for it: stronger for large networks that see images often."""
    side, size = train.side, model_size(best.network, train.side, train.channels)
    is_strong = size is not None and size.is_large and epochs >= settings.strong_augmentation_epochs
    padding = shift_pixels(train, settings.strong_shift_part if is_strong else settings.shift_part)
    cutout = int(settings.strong_cutout * side) if is_strong else 0
    parts = [f"shifted by up to {padding} pixel{'s' * (padding > 1)}"]
    parts += ["flipped in every second epoch"] * (best.flip > 0)
    parts += [f"a {cutout}x{cutout} square cut out, as a large network sees the images often"] * is_strong
    flip = Flip(0.5 if best.flip > 0 else 0.0, "alternating")
    return Policy(crop=Crop(padding, "reflect"), flip=flip, cutout=Cutout(cutout)), ", ".join(parts)
