"""fastconv from Python: train a classifier on images in some seconds, and use it."""

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.budget.clock import Clock
from fastconv.config.overrides import COMPOSING_ERRORS, compose, explain, typed
from fastconv.config.store import CONF
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically
from fastconv.train import check_run

if TYPE_CHECKING:
    from fastconv.analysis.predictor import Predictor


def fit(
    dataset: str | Path | tuple[np.ndarray, Sequence[object]],
    seconds: float = 1000.0,
    *overrides: str,
    experiment: str = "best",
) -> "Predictor":
    """Train on images inside a budget of seconds, everything counted, and return the predictor.

    Args:
        dataset: a data set's name, such as `cifar10`; a folder with a folder of images for each class; or images uint8
            [N, H, W] or [N, H, W, C] and their N labels, numbers or names, of which a fifth are kept to test with.
        seconds: the budget.
        overrides: further settings as on the command line, such as `seed=1` or `dataset.test_share=0.1`.
        experiment: `best`, or another.

    Raises InputError for what cannot work.
    """
    given = [f"experiment={experiment}", f"budget.seconds={seconds}", *_settings(dataset), *overrides]
    try:
        config = typed("train", compose("train", given), given)
    except COMPOSING_ERRORS as error:
        raise InputError(explain(error, "train", given)) from error
    if config.dry_run or config.resume:
        raise InputError("fit trains a new network: leave out dry_run and resume")
    clock = Clock()
    data = check_run(config)
    # Here, as both import torch: what can be checked without it is checked first.
    from fastconv.analysis.predictor import load
    from fastconv.training.run import train

    folder = train(config, data, given, clock)
    assert folder is not None  # as it is not a dry run
    return load(folder, config.trainer.accelerator, trust=True)


def _settings(dataset: str | Path | tuple[np.ndarray, Sequence[object]]) -> list[str]:
    """The overrides that make a run train on a data set."""
    if isinstance(dataset, tuple):
        images, labels = dataset
        file = io.BytesIO()
        np.savez(file, images=np.asarray(images), labels=np.asarray(labels))
        # Kept, as whoever looks at the run later needs them; by their content, lest the same ones be kept twice.
        name = hashlib.sha256(file.getvalue()).hexdigest()[:16]
        path = Path(os.environ.get("FASTCONV_DATA", "data"), "arrays", f"{name}.npz").absolute()
        write_atomically(path, file.getvalue())
        return ["dataset=arrays", f"dataset.root={quoted(path)}"]
    if (CONF / "dataset" / f"{dataset}.yaml").exists():
        return [f"dataset={dataset}"]
    if not Path(dataset).is_dir():
        raise InputError(f"{dataset} is neither a folder nor one of fastconv's data sets")
    return ["dataset=image_folder", f"dataset.root={quoted(Path(dataset).absolute())}"]


def quoted(path: object) -> str:
    """A path as Hydra's grammar reads it, whatever is in it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
