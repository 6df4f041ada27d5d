"""Trains the head of a frozen network on features that it has computed before."""

from typing import Any

import lightning as L
from torch import nn

from fastconv.data.features import KeptFeatures
from fastconv.training.callbacks.time_budget import TimeBudget

# Bytes of features after which no more are computed: those of 200,000 images of EfficientNet-Lite0.
MOST_BYTES = 2**30


def is_reusing(module: nn.Module) -> bool:
    """Whether a module trains on features that it has kept."""
    kept: KeptFeatures | None = getattr(module, "kept", None)
    return kept is not None and kept.new is not None


class ReuseFeatures(L.Callback):
    """Lets a run go on with the features that it has kept, from a share of the run on or when their memory is full.

    Until then each step computes the features of new images. Steps on kept ones are far shorter.

    Args:
        budget: the run's budget, which provides the progress.
        kept: the features.
        share: share of the run, in [0, 1].
        most_bytes: bytes of features to keep.
    """

    def __init__(self, budget: TimeBudget, kept: KeptFeatures, share: float, most_bytes: int = MOST_BYTES) -> None:
        self._budget, self._kept, self._share, self._most_bytes = budget, kept, share, most_bytes

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if getattr(pl_module, "kept", None) is None:  # its network has no features that can be kept
            return
        self._budget.begin_step(trainer)
        is_time = self._budget.progress >= self._share or self._kept.bytes >= self._most_bytes
        if is_time and self._kept.new is None:
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
