"""Prediction with a trained network: images in, classes and probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.analysis.scoring import BATCH_SIZE, batches, class_probabilities
from fastconv.budget.hardware import prepare
from fastconv.config.schema import Trainer
from fastconv.data.sources.formats import open_image
from fastconv.data.sources.pixels import to_array
from fastconv.models.classifier import Classifier
from fastconv.models.tta import Views, views_of
from fastconv.system.errors import InputError
from fastconv.system.files import read_file

AnyImage = str | Path | Image.Image | np.ndarray
Images = np.ndarray | Sequence[AnyImage]


@dataclass(frozen=True)
class Predictions:
    """Probabilities float32 [N, classes] of images, and the names of the classes."""

    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each image, int64 [N]."""
        found: np.ndarray = self.probabilities.argmax(1)
        return found

    @property
    def names(self) -> list[str]:
        """Name of the most probable class of each image."""
        return [self.classes[label] for label in self.labels]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Return the most probable classes of each image with their probabilities, highest first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[label], float(probabilities[label])) for label in labels]
            for labels, probabilities in zip(order, self.probabilities, strict=True)
        ]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {probability:.1%}" for name, probability in (each[0] for each in self.top(1)[:3]))
        return f"Predictions of {len(self)} images: {shown}{', ...' if len(self) > 3 else ''}"


class Predictor:
    """A trained network with the preprocessing that it was trained with.

    Args:
        run: a trained run, as read from its folder.
        accelerator: `auto`, `cpu` or `gpu`.
    """

    def __init__(self, run: TrainedRun, accelerator: str = "auto") -> None:
        self.run = run
        self._device = prepare(Trainer(accelerator=accelerator))
        self.shape, self.classes = run.shape, run.classes
        self._network = Classifier(run.model, run.mean, run.std).eval().to(self._device.kind)
        self._network.to(memory_format=torch.channels_last)

    @property
    def on_cpu(self) -> bool:
        """Whether the network computes on the CPU."""
        return self._device.kind == "cpu"

    def predict(self, images: Images, tta: bool = False) -> Predictions:
        """Classify images.

        Args:
            images: uint8 [N, H, W, C], or paths, Pillow's images or arrays of any size and mode.
            tta: score each image in the views that the run was tested with, which takes as many times as long.

        Raises InputError for an image that cannot be read.
        """
        parts = [self.probabilities(self.arrays(images[part]), tta) for part in batches(len(images), BATCH_SIZE)]
        return Predictions(np.concatenate(parts) if parts else self._none(), self.classes)

    def arrays(self, images: Images) -> np.ndarray:
        """Convert images to the size and colours that the network takes, uint8 [N, H, W, C]."""
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[1:] == self.shape:
            return images
        return np.stack([self.array(image) for image in images])

    def array(self, image: AnyImage) -> np.ndarray:
        """Convert one image, uint8 [H, W, C]."""
        if isinstance(image, np.ndarray):
            image = Image.fromarray(np.squeeze(image))
        try:
            opened = image if isinstance(image, Image.Image) else open_image(read_file(Path(image)))
            return to_array(opened, self.shape[0], grey=self.shape[2] == 1)
        except Exception as error:  # each of Pillow's readers has its own
            raise InputError(f"{image} cannot be read as an image: {error}") from error

    def probabilities(self, images: np.ndarray, tta: bool = False) -> np.ndarray:
        """Return class probabilities float32 [N, classes] of images uint8 [N, H, W, C]."""
        views = views_of(self.run.config.tta, self.run.config.dataset.flip) if tta else Views()

        def logits(batch: torch.Tensor) -> torch.Tensor:
            with self._device.autocast():
                return views.logits(self._network.model, self._network.normalise(batch))[1]

        return class_probabilities(logits, images, self._device.kind) if len(images) else self._none()

    def _none(self) -> np.ndarray:
        return np.empty((0, len(self.classes)), np.float32)

    def __repr__(self) -> str:
        height, width, channels = self.shape
        results = self.run.results
        accuracy = f", test accuracy {results.accuracy:.2%}" if results and results.accuracy else ""
        return f"Predictor({self.run.folder}: {len(self.classes)} classes, {width}x{height}x{channels}{accuracy})"


def load(folder: str | Path, accelerator: str = "auto", trust: bool = False) -> Predictor:
    """Load a trained run's network, ready to predict.

    Args:
        folder: of the run.
        accelerator: `auto`, `cpu` or `gpu`.
        trust: run the code that the run's files name, if it was trained with components of somebody's own.

    Raises InputError if the folder has no network, or names code without `trust`.
    """
    return Predictor(load_run(Path(folder), trust), accelerator)
