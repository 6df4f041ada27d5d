"""Writes the checkpoints from which a stopped run resumes."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch

from fastconv.system import signals
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, SharedError, warn
from fastconv.system.gpu import synchronize
from fastconv.system.signals import Interrupted
from fastconv.training.callbacks.custom import unreadable
from fastconv.training.callbacks.finite_loss import diverged, has_finite_weights
from fastconv.training.callbacks.time_budget import TimeBudget
from fastconv.training.checkpoint_file import CheckpointFile, count_batches

# Seconds between records of the clock: a kill loses no more counted time than that.
JOURNAL_SECONDS = 1.0


class Checkpoints(L.Callback):
    """Writes the checkpoint after the first step, every `every` seconds, and when a signal ends the run.

    After a signal it raises `Interrupted` at the end of the current step, or within a validation. If a checkpoint
    cannot be written during training, it warns and keeps the one before. The Trainer needs `plugin` among its plugins.

    Args:
        path: the file; None to write none.
        every: seconds between two checkpoints; None for only the first and one at a signal.
        budget: the run's budget; the time of writing goes to the segment `checkpoint` of its clock.
        journal: called every second, at the end of a step, to record the clock on disk.
    """

    def __init__(
        self, path: Path | None, every: float | None, budget: TimeBudget, journal: Callable[[], None] = lambda: None
    ) -> None:
        self._path, self._every, self._budget, self._journal = path, every, budget, journal
        self.plugin = CheckpointFile()
        self._steps_before: int | None = None
        self._saved_at: float | None = None
        self._noted_at = 0.0
        self._loops: dict[str, Any] | None = None
        self._random_state: torch.Tensor | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            agreement = self._budget.agreement
            agreement.ask("signal", lambda: [_received()])
            agreement.ask("save", lambda: [self._is_due(time.monotonic())], of_first=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps_before = self._budget.steps
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
            self._saved_at = time.monotonic()
        signals.listen()
        signals.defer(True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A validation after this step belongs to it: a run that resumed from a checkpoint before it would skip it.
        validates = trainer.limit_val_batches != 0 and (batch_idx + 1) % (trainer.val_check_batch or 1) == 0
        self._end_step(trainer, save=not validates and not trainer.should_stop, waits=False)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()
        if trainer.state.fn == "fit":
            self._loops = trainer.fit_loop.state_dict()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self._end_if_interrupted(trainer, waits=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._end_step(trainer, save=True, waits=True)
            self._loops = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()

    def on_train_end(self, *_: Any) -> None:
        signals.defer(False)

    def on_exception(self, *_: Any) -> None:
        signals.defer(False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Only the first rank's states are written, and there may be none on the others.
        callbacks = getattr(trainer, "callbacks", ()) if is_first_rank() else ()
        if errors := self._first_ranks(trainer, unreadable(callbacks, checkpoint["callbacks"])):
            raise SharedError(errors[0])
        if self._loops is not None:  # save the loops' state from before the validation
            checkpoint["loops"]["fit_loop"] = self._loops

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        count_batches(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"random_state": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random_state = state["random_state"]

    def save(self, trainer: L.Trainer, *, last: bool = False) -> None:
        """Write the checkpoint, which appears under its name only when it is complete and on disk. All ranks take part.

        Args:
            last: whether it is the checkpoint of the trained network, without which the run fails.

        Raises InputError if the weights are not finite, or if the last checkpoint cannot be written; the previous
        checkpoint then stays.
        """
        if self._path is None:
            return
        module = trainer.lightning_module
        synchronize(module.device)  # count running computation as training time
        started = time.monotonic()
        with self._budget.clock.segment("checkpoint"):
            if self._on_any(trainer, not has_finite_weights(module)):
                raise diverged("a weight", self._budget.steps, trainer)
            with self.plugin.withhold() as errors:
                trainer.save_checkpoint(self._path)
            self._judge(self._first_ranks(trainer, [str(error) for error in errors]), last)
        self._saved_at = time.monotonic()
        self._budget.reserve.update(save_seconds=self._saved_at - started)
        self._budget.discard_foresight()

    @property
    def has_advanced(self) -> bool:
        """Whether this process has saved steps that it has trained, so that a resumed run begins after them."""
        trained = self._steps_before is not None and self._budget.steps > self._steps_before
        return trained and self.plugin.digest is not None

    def raise_interrupted(self, trainer: L.Trainer) -> None:
        """Raise Interrupted on all ranks if any of them has received a signal. All ranks call this."""
        if signal := self._agreed(trainer, "signal", _received, waits=True):
            raise Interrupted(signal)

    def replace(self, checkpoint: dict[str, Any]) -> None:
        """Write a changed checkpoint of the trained network, on one rank. Raises InputError if that fails."""
        if self._path is not None:
            self.plugin.save_checkpoint(checkpoint, self._path)

    def _judge(self, errors: list[str], last: bool) -> None:
        """Warn of a checkpoint that could not be written, or raise SharedError if it is the last one."""
        if errors and last:
            raise SharedError(f"{errors[0]}, then continue with resume={self._path.parent if self._path else ''}")
        if errors and is_first_rank():
            warn(f"{errors[0]}. The run goes on")

    def _end_step(self, trainer: L.Trainer, save: bool, waits: bool) -> None:
        """End a step or a validation.

        Args:
            waits: whether ranks wait for each other to agree; if not, they follow the agreement of the middle of the
                step.
        """
        self._end_if_interrupted(trainer, waits)
        now = time.monotonic()
        if save and self._agreed(trainer, "save", lambda: self._is_due(now), waits):
            self.save(trainer)
        if now - self._noted_at >= JOURNAL_SECONDS:
            self._noted_at = now
            with suppress(InputError):  # a disk that is full now may have space at the end
                self._journal()

    def _is_due(self, now: float) -> bool:
        """Whether to write a checkpoint now."""
        if self._saved_at is None:
            return True
        return self._every is not None and now - self._saved_at >= self._every and self._budget.has_time_to_save()

    def _agreed(self, trainer: L.Trainer, name: str, own: Callable[[], int], waits: bool) -> int:
        """The largest number of all ranks; `own` returns this rank's."""
        if trainer.world_size == 1:
            return own()
        agreement = self._budget.agreement
        (number,) = agreement.now([own()]) if waits else agreement.found[name]
        return int(number)

    def _end_if_interrupted(self, trainer: L.Trainer, waits: bool) -> None:
        """End the run so that it can be resumed, if any rank received a signal, unless training is ending anyway."""
        signal = self._agreed(trainer, "signal", _received, waits)
        if signal and not trainer.should_stop:
            self.save(trainer)
            raise Interrupted(signal)

    @staticmethod
    def _first_ranks(trainer: L.Trainer, errors: list[str]) -> list[str]:
        """The first rank's errors."""
        if trainer.world_size == 1:
            return errors
        shared: list[str] = trainer.strategy.broadcast(errors)
        return shared

    @staticmethod
    def _on_any(trainer: L.Trainer, wanted: bool) -> bool:
        """Whether this is true on any rank."""
        return trainer.strategy.reduce_boolean_decision(wanted, all=False) if trainer.world_size > 1 else wanted


def _received() -> int:
    """The signal that asks this process to end; 0 for none."""
    return signals.received() or 0
