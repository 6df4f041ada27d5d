"""Checks a run's data and folders before torch is imported, since the import alone takes seconds."""

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastconv.config.schema import Config, PretrainedTrial
from fastconv.data.dataset import ImageData
from fastconv.data.loading import open_splits
from fastconv.data.sources.base import builtin_sets
from fastconv.data.splits import Splits
from fastconv.data.stream.cache import stored_streams
from fastconv.models.configs import Airbench, Pretrained, patch_side
from fastconv.models.resizing import LEAST_SIDE
from fastconv.system.errors import InputError, nearest
from fastconv.system.files import require_space, unwritable
from fastconv.system.targets import import_target, require_arguments
from fastconv.system.wording import counted


def check_data(config: Config, chosen: Sequence[str] = ()) -> Splits:
    """Open the images of a run, once, and check the config against them.

    Raises InputError for a split, a batch, an augmentation or a stream that these images do not allow.

    Args:
        chosen: settings that autotune has yet to choose (`config.autotune`); they are not checked.
    """
    require_known(config)
    name, share = config.dataset.name, config.dataset.holdout
    splits = open_splits(config.dataset, Path(config.data), config.own_folders())
    train = splits.train
    for images, part in ((train, "for training"), (splits.holdout, "to hold out")):
        if share and len(np.unique(images.labels)) < len(train.classes):
            raise InputError(
                f"dataset.holdout={share:g} leaves no image {part} of some class of {name}: choose another share"
            )
    if "batch_size" not in chosen:
        require_batch(config, len(train))
    height, width, channels = train.images.shape[1:]
    side, padding, size = min(height, width), config.augment.crop.padding, config.augment.cutout.size
    if size >= side:
        raise InputError(f"augment.cutout.size={size} covers the {width}x{height} images whole: give fewer pixels")
    if config.tta.shift >= side:
        raise InputError(f"tta.shift={config.tta.shift} is too much for the {width}x{height} images: give fewer pixels")
    if padding > side or (config.augment.crop.mode == "reflect" and padding >= side):
        raise InputError(
            f"augment.crop.padding={padding} is too much for the {width}x{height} images: give fewer pixels"
        )
    model = config.model
    if isinstance(model, Airbench):
        patch = patch_side(channels, model.whitening_kernel, model.whitening_stride)
        if patch > side:
            name = "stride" if model.whitening_kernel is None else "kernel"
            raise InputError(
                f"model.whitening_{name}={getattr(model, f'whitening_{name}')} needs patches of {patch}x{patch} pixels,"
                f" more than the {width}x{height} images have: give fewer pixels"
            )
    if config.progressive_resizing and side < LEAST_SIDE:
        raise InputError(
            f"progressive_resizing={config.progressive_resizing:g} is for images of at least {LEAST_SIDE}x{LEAST_SIDE}"
            f" pixels: these have {width}x{height}"
        )
    if config.stream.mode == "precomputed":
        require_first_room(config, train)
    return splits


def require_first_room(config: Config, train: ImageData) -> None:
    """Raise InputError if there is no room for the epochs that a run precomputes in any case."""
    # Without a time limit all epochs are needed at once.
    epochs = (config.schedule.max_epochs or 0.0) if config.budget.seconds is None else 0.0
    require_room(config, round(max(epochs, config.stream.epochs or 1) * train.images.nbytes))


# The packages that the loggers of the extra `loggers` import.
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}


def require_loggers(config: Config) -> None:
    """Raise InputError for an unknown logger, for one whose package is not installed, and for one of the user's own
    that cannot be imported or refuses its arguments."""
    for name, settings in config.logger.items():
        own = isinstance(settings, dict) and "_target_" in settings
        if own:
            arguments = {key: value for key, value in settings.items() if key != "_target_"}
            require_arguments(
                import_target(settings["_target_"], f"logger.{name}._target_"), f"logger.{name}", arguments
            )
        if not own and name not in ("csv", "tensorboard", *PACKAGES):
            raise InputError(f"logger.{name} is unknown{nearest(name, ('csv', 'tensorboard', *PACKAGES))}")
        missing = [] if own else [each for each in PACKAGES.get(name, ()) if importlib.util.find_spec(each) is None]
        if missing:
            raise InputError(f"logger={name} needs {' and '.join(missing)}: pip install 'fastconv[loggers]'")


def require_weights(config: Config) -> None:
    """Raise InputError for a file of pretrained weights that is not there."""
    for key, settings in (("model", config.model), ("pretrained", config.pretrained)):
        if isinstance(settings, Pretrained | PretrainedTrial) and settings.weights is not None:
            if Path(settings.weights).is_file():
                continue
            from fastconv.models.pretrained_weights import require_file  # imports torchvision

            require_file(settings.backbone, settings.weights, key)


def require_batch(config: Config, images: int) -> None:
    """Raise InputError for a batch that is larger than the training set."""
    if line := too_large_batch(config, images):
        raise InputError(line)


def too_large_batch(config: Config, images: int) -> str | None:
    """Why a batch is not possible with some training images, and what to give instead; None if it is possible."""
    if config.batch_size <= images:
        return None
    return (
        f"batch_size={config.batch_size} is not possible: {config.dataset.name} has {counted(images, 'image')} for"
        f" training. Give batch_size={largest_batch(config, images)} or fewer, or experiment=best"
    )


def largest_batch(config: Config, images: int) -> int:
    """The largest batch that is possible with some training images."""
    devices = config.trainer.world
    part = config.micro_batch_size * devices
    # A batch is made of whole parts, which are smaller than the model's own in a batch that is smaller than one.
    return max(2, images // part * part or images // devices * devices)


def with_possible_batch(config: Config, images: int, overrides: list[str]) -> list[str]:
    """The overrides of a command, for a run on some training images: with a smaller batch if theirs is too large, or
    with experiment=best if neither it nor an experiment was given."""
    if "batch_size" in config.autotune or not too_large_batch(config, images):
        return overrides
    others = [each for each in overrides if not re.match(r"\+*batch_size=", each)]
    if others == overrides and not any(each.startswith(("experiment=", "+experiment=")) for each in overrides):
        return [*overrides, "experiment=best"]
    return [*others, f"batch_size={largest_batch(config, images)}"]


def require_known(config: Config) -> None:
    """Raise InputError for an unknown data set."""
    name, names = config.dataset.name, builtin_sets()
    if config.dataset.is_builtin and name not in names:
        raise InputError(f"dataset.name={name} is unknown{nearest(name, names)} Choose from: {', '.join(names)}")


def require_room(config: Config, needed_bytes: int) -> None:
    """Raise InputError for a stream larger than stream.max_gb, or than the disk has room for without other streams."""
    root = config.stream.folder
    if needed_bytes > config.stream.max_bytes:
        raise InputError(
            f"the stream needs {needed_bytes / 1e9:.3g} GB, more than stream.max_gb={config.stream.max_gb:g}."
            " Raise it, set a smaller stream.epochs, or use stream=online"
        )
    require_writable(root)
    missing = needed_bytes - sum(stream.bytes for stream in stored_streams(root))
    if missing > 0:
        require_space(root, missing, f"the stream of {config.dataset.name}")


def require_writable(folder: Path) -> None:
    """Raise InputError, before anything long starts, if a folder cannot be written to. Does not create the folder."""
    for nearest_there in (folder, *folder.absolute().parents):
        try:
            nearest_there.stat()
            with tempfile.TemporaryFile(dir=nearest_there):
                return
        except FileNotFoundError as error:
            if nearest_there.exists():  # some folders, such as /proc, accept no files
                raise unwritable(folder, error) from error
        except OSError as error:
            raise unwritable(folder, error) from error
