"""The part of the LightningModule that scores: validations, the test, and further views while time remains."""

import time

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from fastconv.models.classifier import Normalise
from fastconv.models.temperature import BINS
from fastconv.models.tta import ScoringTime, Views, logits_in_time
from fastconv.models.weights import weights_digest
from fastconv.system.distributed import is_first_rank

# Scores of the test split, each logged as test/SCORE; the last one only if there is a temperature.
TEST_SCORES = (
    "accuracy",
    "accuracy_tta",
    "loss",
    "expected_calibration_error",
    "expected_calibration_error_unscaled",
)


class ScoredModule(L.LightningModule):
    """Scores a network on batches of a split: images uint8 [B, H, W, C] and labels int64 [B].

    Args:
        classes: number of classes.
        views: views of test-time augmentation; None to score only the unchanged images.
    """

    model: nn.Module
    normalise: Normalise

    def __init__(self, classes: int, views: Views | None = None) -> None:
        super().__init__()
        self._views = views or Views()
        for name in ("validate_accuracy", "test_accuracy", "validate_accuracy_tta", "test_accuracy_tta"):
            setattr(self, name, MulticlassAccuracy(classes, average="micro", validate_args=False))
        self.validate_loss, self.test_loss = MeanMetric(), MeanMetric()
        self._confusion = MulticlassConfusionMatrix(classes, validate_args=False)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        for name in ("test_expected_calibration_error", "test_expected_calibration_error_unscaled"):
            setattr(self, name, MulticlassCalibrationError(classes, BINS, validate_args=False))
        self.counts_validations = False  # whether `confusion` is of the latest validation during training
        self.temperature: float | None = None  # fitted at the end of training
        self.scored_digest: str | None = None
        self.scoring_time: ScoringTime | None = None  # limits images and views, if the budget counts the test
        self.view_sets = [self._views] if self._views.count > 1 else []  # in the order of scoring, if time is limited
        self.view_counts = torch.ones(0, dtype=torch.int64)  # of each image that this rank scored last
        self.views_missing = 0  # images of these for whose views there was no time
        self._plain: list[tuple[Tensor, Tensor]] = []  # logits and labels of unchanged images, before further views

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score("validate", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Store `confusion` of the held-out images: after training, and in each validation if `counts_validations`."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._score_views("validate")
        if self.trainer.state.fn != TrainerFn.FITTING or self.counts_validations:
            self._take_confusion()

    def on_test_epoch_end(self) -> None:
        """Store `confusion` of the test images, and `scored_digest`, the digest of the scored weights, which callbacks
        may change later."""
        self._score_views("test")
        self._take_confusion()
        if is_first_rank():
            self.scored_digest = weights_digest(self.state_dict())

    def _take_confusion(self) -> None:
        """Set `confusion`, int64 [classes, classes] on the CPU: all ranks' scored images by label and prediction."""
        self.confusion = self._confusion.compute().cpu()
        self._confusion.reset()

    def _score(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        """Score a batch. Validations during training score only the unchanged images."""
        images, labels = batch
        is_final = self.trainer.state.fn != TrainerFn.FITTING
        views = self._views if is_final else Views()
        scoring_time, started = self.scoring_time if is_final else None, time.perf_counter()
        if scoring_time and not scoring_time.has_time(len(images)):
            return
        if scoring_time:
            logits = augmented = self(images)
            scoring_time.scored(len(images), time.perf_counter() - started)
            self._plain.append((logits, labels))
        else:
            logits, augmented = views.logits(self.model, self.normalise(images))
        found = {"loss": (F.cross_entropy(logits.float(), labels), len(labels)), "accuracy": (logits, labels)}
        if is_final or self.counts_validations:
            self._confusion.update(logits, labels)
            if not scoring_time:
                found["accuracy_tta"] = (augmented, labels)
        if split == "test":
            scaled = logits.float() / (self.temperature or 1.0)
            found["expected_calibration_error"] = (scaled.softmax(1), labels)
            if self.temperature is not None:
                found["expected_calibration_error_unscaled"] = (logits.float().softmax(1), labels)
        for name, value in found.items():
            score = getattr(self, f"{split}_{name}")
            score.update(*value)
            self.log(f"{split}/{name}", score, on_step=False, on_epoch=True, logger=False)

    def _score_views(self, split: str) -> None:
        """Score further views while time remains, after all unchanged images of a split were scored."""
        if self.scoring_time is None:
            return
        batches = getattr(self.trainer, "test_dataloaders" if split == "test" else "val_dataloaders")
        plain, labels = (torch.cat(parts) for parts in zip(*self._plain, strict=True))
        self._plain.clear()
        # Time that is left after the views of held-out images is for those of the test images.
        sets = self.view_sets if split == "test" else self.view_sets[:1]
        # Lightning enters this context for the steps of an epoch, not for its end.
        with self.trainer.precision_plugin.forward_context():
            augmented, self.view_counts = logits_in_time(
                self.model,
                lambda rows: self.normalise(batches.images(rows)),
                plain,
                sets,
                self.scoring_time,
                batches.batch_size,
            )
        missing = (self.view_counts == 1) & self._views.uncertain(plain)
        self.views_missing = int(missing.sum()) if self._views.count > 1 else 0
        score = getattr(self, f"{split}_accuracy_tta")
        score.update(augmented, labels)
        self.log(f"{split}/accuracy_tta", score, on_step=False, on_epoch=True, logger=False)
