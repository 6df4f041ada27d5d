"""Makes the training step a CUDA graph, in the compile segment of the clock."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

import lightning as L

from fastconv.budget.clock import Clock
from fastconv.training.step_graph import GraphedStep


class MakesItsStep(Protocol):
    """A module whose training step can be replaced, such as `ImageClassifier`."""

    make_step: Callable[[L.LightningModule], Any]


class CaptureStep(L.Callback):
    """Makes the module train by `GraphedStep`. The graph is captured in the first step, when a checkpoint is loaded.

    Args:
        clock: the run's clock; captures go to its `compile` segment.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._step: GraphedStep | None = None

    @property
    def captures(self) -> int:
        """Number of graphs that run the steps; 0 without graphs."""
        return 0 if self._step is None or self._step.gave_up else self._step.captures

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        cast(MakesItsStep, pl_module).make_step = self._make

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._step is not None:
            self._step.release()

    def _make(self, module: L.LightningModule) -> GraphedStep:
        self._step = GraphedStep(module, functools.partial(self._clock.segment, "compile"))
        return self._step
