"""fastconv from Python: train a classifier on images within a time budget, and use it."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.budget.clock import Clock
from fastconv.config.arguments import prepare_arguments
from fastconv.config.overrides import COMPOSING_ERRORS, compose, explain, typed
from fastconv.config.quoting import literally
from fastconv.config.store import CONF
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically
from fastconv.system.openmp import wait_briefly
from fastconv.system.settings import check_local
from fastconv.train import check_run

if TYPE_CHECKING:
    from fastconv.analysis.predictor import Predictor


def fit(
    dataset: str | Path | tuple[np.ndarray, Sequence[object]],
    seconds: float = 1000.0,
    *overrides: str,
    experiment: str = "best",
) -> "Predictor":
    """Train on images within a budget of seconds, from the call to the written result, and return the predictor.

    Args:
        dataset: the name of a data set, such as `cifar10`; a folder that contains a folder of images for each class; or
            images uint8 [N, H, W] or [N, H, W, C] with their N labels, numbers or names. A fifth of these is kept for
            testing.
        seconds: the budget.
        overrides: other settings, as on the command line, such as `seed=1` or `dataset.test_share=0.1`.
        experiment: name of the experiment, such as `best`.

    Raises InputError for input that cannot work.
    """
    wait_briefly()
    clock = Clock()
    settings = [f"experiment={experiment}", f"budget.seconds={seconds}", *_settings(dataset), *overrides]
    given = prepare_arguments("train", settings)
    try:
        config = typed("train", compose("train", given), given)
    except COMPOSING_ERRORS as error:
        raise InputError(explain(error, "train", given)) from error
    if config.dry_run or config.resume:
        raise InputError("fit trains a new network: leave out dry_run and resume")
    data = check_run(config)
    # Both import torch, so they are imported after the checks that do not need it.
    from fastconv.analysis.predictor import load
    from fastconv.training.run import train

    folder = train(config, data, given, clock)
    assert folder is not None  # it is not a dry run
    return load(folder, config.trainer.accelerator, trust=True)


def _settings(dataset: str | Path | tuple[np.ndarray, Sequence[object]]) -> list[str]:
    """The overrides that make a run train on a data set."""
    if isinstance(dataset, tuple):
        images, labels = dataset
        file = io.BytesIO()
        np.savez(file, images=np.asarray(images), labels=np.asarray(labels))
        # Later commands on this run need the images. The file is named by its content, so the same images are stored
        # once.
        name = hashlib.sha256(file.getvalue()).hexdigest()[:16]
        data = os.environ.get("FASTCONV_DATA", "data")
        check_local("FASTCONV_DATA", data)
        path = Path(data, "arrays", f"{name}.npz").absolute()
        write_atomically(path, file.getvalue())
        return ["dataset=arrays", f"dataset.root={literally(path)}"]
    if (CONF / "dataset" / f"{dataset}.yaml").exists():
        return [f"dataset={dataset}"]
    if not Path(dataset).is_dir():
        raise InputError(f"{dataset} is neither a folder nor one of fastconv's data sets")
    return ["dataset=image_folder", f"dataset.root={literally(Path(dataset).absolute())}"]
