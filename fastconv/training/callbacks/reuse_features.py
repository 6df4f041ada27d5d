"""Trains the head of a frozen network on features that it has computed before."""

from typing import Any

import lightning as L

from fastconv.data.features import KeptFeatures
from fastconv.training.callbacks.recorder import Recorder
from fastconv.training.callbacks.time_budget import TimeBudget

# Epochs of new images after which features are not used again. Coming five times more, they gained 5 points after one
# epoch of 60 %, 1 after two of 69 %, and lost 1 after four; 20 times more, they gained 8, and lost 2 and 4
# (EfficientNet-Lite0, 700 images of CIFAR-10 at 96 pixels, 300 held out, three seeds).
MOST_EPOCHS = 2.0
# Bytes of features above which they are not kept either: those of 200,000 images of EfficientNet-Lite0.
MOST_BYTES = 2**30


class ReuseFeatures(L.Callback):
    """Lets a run train on the features that it has kept, after a share of the run.

    Until then each step computes the features of new images; steps on kept features are far shorter. A run that has
    seen `MOST_EPOCHS` of new images by then, or more than memory should keep, continues with new images.

    Args:
        budget: the run's budget, which provides the progress.
        kept: the features.
        share: share of the run, in [0, 1].
        recorder: knows the epochs that the run has seen.
    """

    def __init__(self, budget: TimeBudget, kept: KeptFeatures, share: float, recorder: Recorder) -> None:
        self._budget, self._kept, self._share, self._recorder = budget, kept, share, recorder

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if getattr(pl_module, "kept", None) is None or self._kept.new is not None:
            return
        self._budget.begin_step(trainer)
        if self._recorder.epochs >= MOST_EPOCHS or self._kept.bytes > MOST_BYTES:
            pl_module.kept = None  # type: ignore[assignment]
            self._kept.forget()
        elif self._budget.progress >= self._share:
            self._kept.new = trainer.global_step + 2  # the Trainer has read the batch after this one already

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._kept.new is not None and trainer.global_step > self._kept.new:
            self._budget.worked -= self._budget.work  # the head alone is hardly any work

    def state_dict(self) -> dict[str, Any]:
        return {"new": self._kept.new}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept.new = state["new"]
