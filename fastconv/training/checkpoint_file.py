"""Writes checkpoints to disk, whole or not at all and with the digest of their weights, and reads them."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fastconv.models.weights import DIGEST, weights_digest
from fastconv.runs.checkpoint import load_checkpoint
from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically


class CheckpointFile(TorchCheckpointIO):
    """A plugin of the Trainer that writes checkpoints through a file beside the target.

    Lightning's own writes to the system's folder of temporary files first, which may be small or on another disk.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digest: str | None = None
        """Digest of the weights in the checkpoint that was written last."""
        self._withheld: list[InputError] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. Only the first rank calls this. Raises InputError if it cannot be written."""
        checkpoint[DIGEST] = weights_digest(checkpoint["state_dict"])
        if "://" in str(path):  # of a user's own callback
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_atomically(Path(path), content.getbuffer(), durable=True)
            self.digest = checkpoint[DIGEST]
        except InputError as error:
            if self._withheld is None:
                raise
            self._withheld.append(error)

    @contextmanager
    def withhold(self) -> Iterator[list[InputError]]:
        """Within the block, collect errors of writing in the returned list instead of raising them.

        The other ranks wait for the first one after it has written, so it must not leave the Trainer with an error.
        """
        errors: list[InputError] = []
        self._withheld = errors
        try:
            yield errors
        finally:
            self._withheld = None


def read_checkpoint(path: Path, *callbacks: L.Callback) -> dict[str, Any]:
    """Read the checkpoint of an unfinished run, and restore the states of some callbacks from it.

    Raises InputError for one that is damaged or of another version.
    """
    try:
        checkpoint = load_checkpoint(path, mmap=sys.platform != "win32")  # where the run could not replace it then
    except Exception as error:  # torch, zipfile and pickle each raise their own
        raise _damaged(path) from error
    try:
        states = checkpoint["callbacks"]
        if "stopped_by" in states["TimeBudget"]:
            raise InputError(
                f"{path} was written by version 0.1, and only that version can finish this run: use it, or start a"
                " new run"
            )
        if checkpoint.get(DIGEST) not in (None, weights_digest(checkpoint["state_dict"])):
            raise ValueError("other weights than were written")
        for callback in callbacks:
            callback.load_state_dict(states[callback.state_key])
    except InputError:
        raise
    except Exception as error:  # it may hold anything
        raise _damaged(path) from error
    return checkpoint


def count_batches(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint of an earlier version, in which Lightning counted microbatches, count batches. In place."""
    loops = checkpoint["loops"]["fit_loop"]
    steps: int = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if not steps:  # this version counts the steps elsewhere
        return
    loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = {
        span: dict.fromkeys(("ready", "completed"), 0) for span in ("total", "current")
    }
    loops["epoch_loop.manual_optimization.optim_step_progress"] = {
        span: dict.fromkeys(("ready", "completed"), steps) for span in ("total", "current")
    }
    for span in ("total", "current"):
        counts = loops["epoch_loop.batch_progress"][span]
        begun = counts["ready"] - counts["completed"]  # 1 if it was written at the end of a step
        counts.update(dict.fromkeys(("ready", "started", "processed"), steps), completed=steps - begun)


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged and cannot be read: remove it to begin this run anew")
