"""Folders of PNG files of a data set, and runs on them in processes of their own: what several studies share."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measurements import describe_device
from PIL import Image

from fastconv.budget.hardware import prepare
from fastconv.config.schema import Trainer
from fastconv.data.loading import load

DATA = Path(os.environ.get("FASTCONV_DATA", "data")).absolute()


def machine() -> dict[str, str]:
    """The machine of a row: processors of one name may compute in bf16 or in fp32, at another speed."""
    return {"device": describe_device(), "precision": prepare(Trainer()).precision}


def class_names(classes: Sequence[str]) -> list[str]:
    """The names of the classes' folders: a name with a slash in it would be two."""
    return [name.replace("/", " ") for name in classes]


def write_folder(dataset: str, root: Path, counts: Sequence[int], side: int | None = None) -> None:
    """Write files of a data set below `root`, unless they are there: `train` with the first images of each class, and
    `test` with all.

    Args:
        counts: number of training images of each class.
        side: pixels to which images are scaled; None for images as they are.
    """
    if root.exists():
        return
    aside = root.with_name(f"{root.name}.part")
    for split, data in zip(("train", "test"), load(dataset, DATA), strict=True):
        for label, name in enumerate(class_names(data.classes)):
            (aside / split / name).mkdir(parents=True, exist_ok=True)
            rows = np.flatnonzero(data.labels == label)
            for row in rows[: counts[label]] if split == "train" else rows:
                image = Image.fromarray(np.squeeze(data.images[row]))
                if side is not None:
                    image = image.resize((side, side), Image.Resampling.BICUBIC)
                image.save(aside / split / name / f"{row}.png")
    aside.rename(root)


@contextmanager
def trained(root: Path, *settings: str) -> Iterator[tuple[Path, Path]]:
    """Train on a folder in a process of its own, which measures everything anew.

    Yields the folder of the run and the one of its data, which are removed at the end.
    """
    with tempfile.TemporaryDirectory() as aside:
        given = ["dataset=image_folder", f"dataset.root={root}", *settings]
        given += ["figures=false", f"outputs={aside}/outputs", f"data={aside}/data"]
        subprocess.run([sys.executable, "-m", "fastconv.train", *given], check=True)
        (found,) = Path(aside, "outputs").rglob("results.json")
        yield found.parent, Path(aside, "data")
