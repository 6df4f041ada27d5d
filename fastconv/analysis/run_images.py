"""The images of a trained run, as its data set has them now."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastconv.analysis.checkpoint import TrainedRun
from fastconv.data.dataset import ImageData, mean_and_std
from fastconv.data.own_images import own_images
from fastconv.data.split_record import FILE, SplitRecord
from fastconv.data.splits import Splits

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of pixels, per channel."""


def images_of(run: TrainedRun, data: Path) -> tuple[Splits, list[str]]:
    """The images that a run trained on, held out and tested on, and lines that say what is wrong with them.

    Args:
        data: the data folder.

    Raises InputError if the data set cannot be read, or is not the one that the run was trained on.
    """
    test_digest = run.results.test_digest if run.results else None
    found = own_images(run.config.dataset, data, run.folder, run.config.own_folders(), test_digest)
    splits, lines = found.splits, [found.changes.sentence()]
    run.require_same_data(splits.test)
    may_differ = not found.has_record and not run.config.dataset.is_builtin
    if may_differ and not same_pixels(mean_and_std(splits.train.images), (run.mean, run.std)):
        lines.append(
            f"{run.folder / FILE}, the list of this run's images, is missing, and the split that is drawn without it is"
            " another: the run may have been trained on some of these test images. Restore the file if there was"
            " one, or train anew for a true accuracy."
        )
    if splits.leak:
        lines.append(f"{splits.leak}: the accuracy is too high. python -m fastconv.audit shows which.")
    return splits, [line for line in lines if line]


def same_pixels(one: Statistics, other: Statistics) -> bool:
    """Whether two sets of images have the same mean and standard deviation of pixels, so that they are the same."""
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))


def untrained_on(test: ImageData, runs: Sequence[TrainedRun]) -> ImageData:
    """The test images that none of several runs was trained on, or held out."""
    if test.hashes is None:
        return test
    records = [record for run in runs if (record := SplitRecord.read(run.folder))]
    seen = [part.hashes for record in records for part in (record.train, record.holdout)]
    is_seen = np.isin(test.hashes, np.concatenate(seen)) if seen else np.zeros(len(test), bool)
    return test.take(np.flatnonzero(~is_seen)) if is_seen.any() else test
