"""fastconv from Python: train a classifier on images within a time budget, and use it."""

import hashlib
import io
import itertools
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.budget.clock import Clock
from fastconv.config.arguments import prepare_arguments
from fastconv.config.cli import READING
from fastconv.config.overrides import COMPOSING_ERRORS, compose
from fastconv.config.quoting import literally, require_texts
from fastconv.config.store import CONF
from fastconv.config.typed_config import explain, typed
from fastconv.data.configs import PLACES
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically
from fastconv.system.openmp import wait_briefly
from fastconv.system.rank_store import begin_job
from fastconv.system.settings import check_local, data_folder
from fastconv.system.signals import INTERRUPT_CODE, Interrupted, listening
from fastconv.train import check_run

if TYPE_CHECKING:
    from fastconv.predictor import Predictor


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt: during training after the current step, or at once if
    repeated.

    Afterwards signals do what they did before, since the process belongs to the user.
    """
    try:
        with listening(second_ends=False):
            yield
    except Interrupted as error:
        if error.exit_code != INTERRUPT_CODE:
            raise
        raise KeyboardInterrupt(error.advice or "") from error


# Calls of `fit` in this process. Where torchrun started it with others, all of them make the same ones.
_calls = itertools.count()


@_stoppable()
def fit(
    dataset: Any,
    seconds: float | None = 1000.0,
    *overrides: str,
    experiment: str = "best",
    objective: str = "accuracy",
    image_column: str | None = None,
    label_column: str | None = None,
) -> "Predictor":
    """Train a classifier on images within a time budget, and return its predictor.

    Args:
        dataset: one of these.

            - The name of a data set, such as `cifar10`.
            - A folder that contains a folder of images for each class.
            - A file: a table of images and labels (`.csv`, `.tsv`), arrays (`.npz`), a tar of images with labels, or
              `.parquet`.
            - `(images, labels)`: uint8 [N, H, W] or [N, H, W, C], or a list of paths or Pillow images, with N labels,
              numbers or names.
            - A pandas or polars `DataFrame` with a column of images (paths, bytes, Pillow images, or arrays uint8
              [H, W] or [H, W, C]) and one of labels.
            - A Hugging Face `Dataset`, or a `DatasetDict` of splits.

            If there is no test split, a fifth of the images of each class is kept for testing.
        seconds: the budget; None for no limit, which `experiment="best"` does not allow. With that experiment and with
            `"pretrained"`, all counts from the call to the written result; with others what `budget.counts` names.
        overrides: other settings, as on the command line, such as `seed=1` or `dataset.test_share=0.1`.
        experiment: name of the experiment, such as `best`.
        objective: the result that the network is judged by: `accuracy`, `balanced_accuracy` or `macro_f1`.
        image_column: name of the column of images, if several columns fit.
        label_column: name of the column of labels, if several columns fit.

    Images that are not files are stored in the data folder (`FASTCONV_DATA`), since later commands on the run need
    them.

    Raises InputError for input that cannot work; refused images and labels are not stored. Raises KeyboardInterrupt
    after Ctrl-C, during training at the end of the current step; its text is the command that resumes the run.
    """
    wait_briefly()
    begin_job(next(_calls))
    clock = Clock()
    require_texts("fit", f'fit(..., {seconds!r}, "seed=1")', overrides)
    if not isinstance(experiment, str) or not experiment:
        raise InputError(f'experiment={experiment!r} is not the name of an experiment: give one, such as "best"')
    if is_first_rank():
        print(READING, flush=True)
    given = _given(dataset, image_column, label_column)
    settings = [f"experiment={experiment}", f"budget.seconds={'null' if seconds is None else seconds}", *given.settings]
    settings += [*([] if objective == "accuracy" else [f"objective={objective}"]), *overrides]
    with given.kept():
        settings = prepare_arguments("train", settings)
        try:
            config = typed("train", compose("train", settings), settings)
        except COMPOSING_ERRORS as error:
            raise InputError(explain(error, "train", settings)) from error
        if config.dry_run or config.resume:
            raise InputError("fit trains a new network: leave out dry_run and resume")
        data = check_run(config)
    # Both import torch, so they are imported after the checks that do not need it.
    from fastconv.predictor import load
    from fastconv.training.run import train

    folder = train(config, data, settings, clock)
    assert folder is not None  # it is not a dry run
    return load(folder, config.trainer.accelerator, trust=True)


# Endings of files, with the name of the data set and the setting that takes the file.
_FILES = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), ("csv", "dataset.train")),
    **dict.fromkeys((".tar", ".tar.gz", ".tgz"), ("webdataset", "dataset.train")),
    ".parquet": ("parquet", "dataset.train"),
    ".npz": ("arrays", "dataset.root"),
}
_WANTED = "give the name of a data set, a folder, a file, a table, or (images, labels)"


@dataclass(frozen=True)
class _Given:
    """The settings of a data set, and what was stored for it: none if nothing was, or if it was there before."""

    settings: list[str]
    stored: Path | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Remove what was stored if the block refuses it."""
        try:
            yield
        except InputError:
            if self.stored is not None and self.stored.is_dir():
                shutil.rmtree(self.stored, ignore_errors=True)
            elif self.stored is not None:
                self.stored.unlink(missing_ok=True)
            raise


def _given(dataset: Any, image_column: str | None, label_column: str | None) -> _Given:
    """The settings of a data set of any form, which is stored where it is no file yet."""
    columns = {"dataset.image_column": image_column, "dataset.label_column": label_column}
    named = [f"{key}={literally(value)}" for key, value in columns.items() if value is not None]
    if isinstance(dataset, str | Path):
        settings = _settings(dataset)
        if named and settings[0] not in ("dataset=csv", "dataset=parquet"):
            raise InputError(f"image_column and label_column are for tables and parquet files, not {dataset}")
        return _Given([*settings, *named])
    if isinstance(dataset, tuple | list) and named:
        raise InputError("image_column and label_column are for tables, not for (images, labels)")
    from fastconv.analysis.given_tables import as_table, of_lists
    from fastconv.analysis.stored_tables import store_table

    if isinstance(dataset, tuple | list):
        images, labels = _pair(dataset)
        table = of_lists(images, labels)
        if table is None:
            return _stored(_packed(images, labels))
    elif (table := as_table(dataset, image_column, label_column)) is None:
        raise InputError(f"the data set is a {type(dataset).__name__}: {_WANTED}")
    path, known = store_table(table, _data_folder() / "tables")
    settings = ["dataset=csv", f"dataset.train={literally(path)}", f"dataset.name={literally(table.name)}"]
    return _Given(settings, None if known else path.parent)


def _settings(dataset: str | Path) -> list[str]:
    """The overrides that make a run train on a named data set, a folder or a file."""
    name = os.path.expanduser(dataset)  # a text that cannot be a path, as it is too long, is no file for os.path
    if _is_named(name):
        return [f"dataset={name}"]
    if name and os.path.isdir(name):
        return ["dataset=image_folder", f"dataset.root={literally(Path(name).absolute())}"]
    if found := [each for ending, each in _FILES.items() if name.lower().endswith(ending)]:
        if not os.path.isfile(name):
            raise InputError(f"{name[:200]} is not there")
        kind, key = found[0]
        return [f"dataset={kind}", f"{key}={literally(Path(name).absolute())}"]
    if name and os.path.isfile(name):
        if zipfile.is_zipfile(name):
            raise InputError(f"{name[:200]} is an archive: unpack it, and give the folder")
        raise InputError(f"{name[:200]} is a file of no known kind: give a folder, or {', '.join(_FILES)}")
    raise InputError(f"{name[:200] or 'an empty text'} is neither a folder nor one of fastconv's data sets")


def _is_named(name: str) -> bool:
    """Whether it names a data set. A path does not, such as ../train, even if it leads to a file in `conf`; nor does
    the name of a kind of source, such as arrays, if there is a folder of that name."""
    is_name = bool(name) and Path(name).name == name and os.path.isfile(CONF / "dataset" / f"{name}.yaml")
    return is_name and not (name in (*PLACES, "custom", "torchvision") and os.path.isdir(name))


def _pair(dataset: Any) -> tuple[Any, Any]:
    """Images and labels of a tuple."""
    if not isinstance(dataset, tuple) or len(dataset) != 2:
        raise InputError(f"the data set is a {type(dataset).__name__} of {len(dataset)}: {_WANTED}")
    return dataset


def _packed(images: Any, labels: Any) -> bytes:
    """Images and their labels as the content of a .npz. Raises InputError for those that cannot be learned."""
    from fastconv.analysis.given_images import require_bytes
    from fastconv.data.sources.array_values import as_labels, require_images
    from fastconv.data.sources.labels import NO_LABEL, class_names

    images, labels = _array(images, "images"), _array(labels, "labels")
    if not images.size:
        raise InputError("the data set has no images: give uint8 [N, H, W] or [N, H, W, C]")
    whole = images.dtype.kind in "iu" and images.min() >= 0 and images.max() <= 255
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
    unlabelled = [(f"image {at}", NO_LABEL) for at, label in enumerate(given) if label is None]
    class_names((label for label in given if label is not None), "the data set", unlabelled)
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


def _stored(content: bytes) -> _Given:
    """Store images and labels, named by their content, so that the same ones are stored once."""
    path = _data_folder() / "arrays" / f"{hashlib.sha256(content).hexdigest()[:16]}.npz"
    known = path.exists()
    write_atomically(path, content)
    return _Given(["dataset=arrays", f"dataset.root={literally(path)}"], None if known else path)


def _data_folder() -> Path:
    data = data_folder("data")
    check_local("FASTCONV_DATA", data)
    return Path(data).absolute()
