"""fastconv from Python: train a classifier on images within a time budget, and use it."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from fastconv.system.signals import INTERRUPT_CODE, Interrupted, listening
from fastconv.train import check_run

if TYPE_CHECKING:
    from fastconv.analysis.predictor import Predictor


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt: in training after the running step, or at once if repeated.

    Afterwards signals do what they did before, since the process is the user's own.
    """
    try:
        with listening(second_ends=False):
            yield
    except Interrupted as error:
        if error.exit_code != INTERRUPT_CODE:
            raise
        raise KeyboardInterrupt(error.advice or "") from error


@_stoppable()
def fit(
    dataset: str | Path | tuple[np.ndarray, Sequence[object]],
    seconds: float = 1000.0,
    *overrides: str,
    experiment: str = "best",
    objective: str = "accuracy",
) -> "Predictor":
    """Train on images within a budget of seconds, from the call to the written result, and return the predictor.

    Args:
        dataset: the name of a data set, such as `cifar10`; a folder that contains a folder of images for each class; or
            images uint8 [N, H, W] or [N, H, W, C] with their N labels, numbers or names. A fifth of these is kept for
            testing.
        seconds: the budget.
        overrides: other settings, as on the command line, such as `seed=1` or `dataset.test_share=0.1`.
        experiment: name of the experiment, such as `best`.
        objective: the result that the network is judged by: `accuracy`, `balanced_accuracy` or `macro_f1`.

    Raises InputError for input that cannot work; images and labels that are refused are not stored. Raises
    KeyboardInterrupt after Ctrl-C: in training after the running step, with the command that goes on.
    """
    wait_briefly()
    clock = Clock()
    for each in overrides:
        if not isinstance(each, str):
            raise InputError(
                f'fit takes other settings as texts, such as fit(..., {seconds!r}, "seed=1"): {str(each)[:60]!r} is a'
                f" {type(each).__name__}"
            )
    if not isinstance(experiment, str) or not experiment:
        raise InputError(f'experiment={experiment!r} is no name of an experiment: give one, such as "best"')
    arrays = _packed(*_pair(dataset)) if isinstance(dataset, tuple | list) else b""
    chosen = _settings(dataset) if isinstance(dataset, str | Path) else _settings_of_arrays(arrays)
    settings = [f"experiment={experiment}", f"budget.seconds={seconds}", *chosen]
    settings += [*([] if objective == "accuracy" else [f"objective={objective}"]), *overrides]
    given = prepare_arguments("train", settings)
    try:
        config = typed("train", compose("train", given), given)
    except COMPOSING_ERRORS as error:
        raise InputError(explain(error, "train", given)) from error
    if config.dry_run or config.resume:
        raise InputError("fit trains a new network: leave out dry_run and resume")
    with _stored(arrays):  # later commands on this run need the images
        data = check_run(config)
    # Both import torch, so they are imported after the checks that do not need it.
    from fastconv.analysis.predictor import load
    from fastconv.training.run import train

    folder = train(config, data, given, clock)
    assert folder is not None  # it is not a dry run
    return load(folder, config.trainer.accelerator, trust=True)


# File endings of other data sets, with the name of the set and the setting that takes the file.
_FILES = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), ("csv", "dataset.train")),
    **dict.fromkeys((".tar", ".tar.gz", ".tgz"), ("webdataset", "dataset.train")),
    ".npz": ("arrays", "dataset.root"),
}
_WANTED = "give the name of a data set, a folder, or (images, labels)"


def _settings(dataset: str | Path) -> list[str]:
    """The overrides that make a run train on a named data set or a folder."""
    name = str(dataset)
    if name and _there(CONF / "dataset" / f"{name}.yaml"):
        return [f"dataset={name}"]
    if name and _there(Path(name), folder=True):
        return ["dataset=image_folder", f"dataset.root={literally(Path(name).absolute())}"]
    if found := [each for ending, each in _FILES.items() if name.lower().endswith(ending)]:
        kind, key = found[0]
        raise InputError(
            f'{name[:200]} is no folder: for a file of this kind say fit("{kind}", 300, "{key}={name[:200]}")'
        )
    raise InputError(f"{name[:200] or 'an empty text'} is neither a folder nor one of fastconv's data sets")


def _there(path: Path, folder: bool = False) -> bool:
    """Whether there is a file, or a folder; False for a text that cannot be a path."""
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _pair(dataset: Any) -> tuple[Any, Any]:
    """Images and labels of a tuple."""
    if not isinstance(dataset, tuple) or len(dataset) != 2:
        raise InputError(f"the data set is a {type(dataset).__name__} of {len(dataset)}: {_WANTED}")
    return dataset


def _packed(images: Any, labels: Any) -> bytes:
    """Images and their labels as the content of a .npz. Raises InputError for those that cannot be learned."""
    from fastconv.analysis.given_images import require_bytes
    from fastconv.data.sources.array_values import as_labels, require_images
    from fastconv.data.sources.labels import class_names

    images, labels = _array(images, "images"), _array(labels, "labels")
    if images.dtype.kind in "US":
        raise InputError(
            "images are texts: list the files with their labels in a table, and say"
            ' fit("csv", 300, "dataset.train=table.csv")'
        )
    whole = images.dtype.kind in "iu" and images.size and images.min() >= 0 and images.max() <= 255
    if not whole:
        require_bytes(images)
    require_images(images.shape, images.dtype, "the data set has images")
    if not labels.ndim or len(labels) != len(images):
        count = f"{len(labels):,}" if labels.ndim else "a single value"
        raise InputError(f"the data set needs as many labels as images: they are {count} and {len(images):,}")
    if labels.dtype.kind == "O":  # of pandas, or of several types
        wrong = next(
            (at for at, label in enumerate(labels.flat) if not isinstance(label, str | int | float | np.generic)), None
        )
        if wrong is not None or labels.ndim > 1:
            shown = type(labels.flat[wrong or 0]).__name__
            raise InputError(f"label {wrong or 0} is {shown}: give numbers or names, and leave out images without one")
        labels = np.array([str(label) for label in labels])
    given = as_labels(labels, "the data set has labels")
    class_names((label for label in given if label is not None), "the data set")
    file = io.BytesIO()
    np.savez(file, images=images, labels=labels)
    return file.getvalue()


def _array(given: Any, what: str) -> np.ndarray:
    given = given.detach().cpu() if hasattr(given, "detach") else given  # a tensor, perhaps of a GPU
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        advice = "of one size, uint8 [N, H, W, C]; files of several sizes can lie in folders" if what == "images" else (
            "numbers or names, one for each image"
        )  # fmt: skip
        raise InputError(f"{what} do not make one array: give {advice}") from error


@contextmanager
def _stored(content: bytes) -> Iterator[None]:
    """Store images and labels, if there are any; what is refused afterwards is removed, unless it was there before."""
    path = _arrays_path(content) if content else None
    known = path is None or path.exists()
    if path is not None:
        write_atomically(path, content)
    try:
        yield
    except InputError:
        if path is not None and not known:
            path.unlink(missing_ok=True)
        raise


def _arrays_path(content: bytes) -> Path:
    """Where images and labels are stored: named by their content, so that the same ones are stored once."""
    data = os.environ.get("FASTCONV_DATA", "data")
    check_local("FASTCONV_DATA", data)
    return Path(data, "arrays", f"{hashlib.sha256(content).hexdigest()[:16]}.npz").absolute()


def _settings_of_arrays(content: bytes) -> list[str]:
    if not content:
        raise InputError(f"the data set is no text, path or tuple: {_WANTED}")
    return ["dataset=arrays", f"dataset.root={literally(_arrays_path(content))}"]
