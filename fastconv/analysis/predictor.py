"""Prediction with a trained network: images in, classes and probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastconv.analysis.checkpoint import TrainedRun
from fastconv.analysis.given_images import AnyImage, Images, pixels_of, sequence_of
from fastconv.analysis.scoring import batches, class_probabilities
from fastconv.budget.hardware import prepare
from fastconv.config.schema import Trainer
from fastconv.data.dataset import images_at_once
from fastconv.models.classifier import Classifier
from fastconv.models.configs import Pretrained
from fastconv.models.tta import Views, views_of
from fastconv.system.wording import counted


@dataclass(frozen=True)
class Predictions:
    """Predictions of N images: probabilities float32 [N, classes], and the names of the classes."""

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
        """Return the `count` most probable classes of each image with their probabilities in [0, 1], highest first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[label], float(probabilities[label])) for label in labels]
            for labels, probabilities in zip(order, self.probabilities, strict=True)
        ]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {probability:.1%}" for name, probability in (each[0] for each in self.top(1)[:3]))
        return f"Predictions of {counted(len(self), 'image')}: {shown}{', ...' if len(self) > 3 else ''}"


class Predictor:
    """A trained network with its preprocessing.

    Args:
        run: a trained run, as read from its folder.
        accelerator: `auto`, `cpu` or `gpu`.
    """

    def __init__(self, run: TrainedRun, accelerator: str = "auto") -> None:
        self.run = run
        # Layers of a library, unlike ours, may lose much in bf16: with random weights, MobileNetV3-Small gave
        # probabilities that differed by up to 0.05 from those of its exported file.
        precision = "fp32" if isinstance(run.config.model, Pretrained) else "auto"
        self._device = prepare(Trainer(accelerator=accelerator, precision=precision))
        self.shape, self.classes = run.shape, run.classes
        self._network = Classifier(run.model, run.mean, run.std).eval().to(self._device.kind)
        self._network.to(memory_format=torch.channels_last)

    @property
    def on_cpu(self) -> bool:
        """Whether the network computes on the CPU."""
        return self._device.kind == "cpu"

    def predict(self, images: Images, tta: bool = False) -> Predictions:
        """Classify one or many images; a single image gives one prediction.

        Args:
            images: a path, a Pillow image or an array uint8 [H, W] or [H, W, C]; a list of these; or an array or tensor
                uint8 [N, H, W, C], [N, C, H, W] or [N, H, W]. Images may have any size.
            tta: use the run's test-time augmentation; the time grows with the number of views.

        Raises InputError for an image that cannot be read, and for arrays of another type than uint8.
        """
        given = sequence_of(images, self.shape)
        slices = batches(len(given), images_at_once(self.shape))
        parts = [self.probabilities(self._arrays(given[part], part.start), tta) for part in slices]
        return Predictions(np.concatenate(parts) if parts else self._none(), self.classes)

    def _arrays(self, images: np.ndarray | Sequence[AnyImage], first: int) -> np.ndarray:
        """Convert images, the first of which is number `first`, to uint8 [N, H, W, C] of the network's shape."""
        if isinstance(images, np.ndarray) and images.shape[1:] == self.shape:
            return images
        how = self.run.levels, self.run.resize
        return np.stack([pixels_of(image, self.shape, at, *how) for at, image in enumerate(images, first)])

    def views(self, tta: bool) -> Views:
        """Return the views in which images are scored: with `tta` those of the run, else the image alone."""
        return views_of(self.run.config.tta, self.run.config.augment.mirrors) if tta else Views()

    def probabilities(self, images: np.ndarray, tta: bool = False) -> np.ndarray:
        """Return class probabilities float32 [N, classes] of images uint8 [N, H, W, C], at the run's temperature."""
        views = self.views(tta)
        temperature = self.run.temperature or 1.0

        def logits(batch: torch.Tensor) -> torch.Tensor:
            with self._device.autocast():
                return views.logits(self._network.model, self._network.normalise(batch))[1] / temperature

        return class_probabilities(logits, images, self._device.kind) if len(images) else self._none()

    def _none(self) -> np.ndarray:
        return np.empty((0, len(self.classes)), np.float32)

    def __repr__(self) -> str:
        height, width, channels = self.shape
        results = self.run.results
        accuracy = f", test accuracy {results.accuracy:.2%}" if results and results.accuracy else ""
        return f"Predictor({self.run.folder}: {len(self.classes)} classes, {width}x{height}x{channels}{accuracy})"
