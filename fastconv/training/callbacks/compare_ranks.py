"""Makes sure that all ranks of a run train the same network on the same images in the same way."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from fastconv.config.run_settings import hparams
from fastconv.models.weights import weights_digest
from fastconv.system.errors import SharedError

if TYPE_CHECKING:
    from fastconv.training.plan import Run

# A value that differs is shown up to this many characters.
SHOWN = 60


class CompareRanks(L.Callback):
    """Ends all ranks in one line if they differ, before the first step of a run and of each resumed one.

    Settings, images, stream, precision and the shape of the network are compared before the ranks share weights; the
    weights and the state of the optimizer when training begins, as they were made or loaded.

    Args:
        run: the run as this rank has planned it.

    Raises SharedError, which names what differs.
    """

    def __init__(self, run: "Run") -> None:
        self._run = run

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or stage != "fit":
            return
        run = self._run
        shapes = ", ".join(f"{name} {value.dtype} {tuple(value.shape)}" for name, value in _state(pl_module))
        require_same(
            {
                **{name: str(value) for name, value in hparams(run.config).items()},
                "the digest of the training images": run.train.digest,
                "the digest of the held-out images": run.holdout.digest,
                "the digest of the test images": run.test.digest,
                "the fingerprint of the stream": run.spec.fingerprint,
                "the precision": run.device.precision,
                "the shape of the network": digest_of(shapes),
            }
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
            require_same(
                {
                    "the digest of the weights": weights_digest(dict(_state(pl_module))),
                    "the digest of the optimizer's state": digest_of(optimizers),
                }
            )


def require_same(own: Mapping[str, str]) -> None:
    """Raise SharedError on all ranks unless all of them call this with the same values, by name."""
    given: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(given, (platform.node(), dict(own)))
    if line := difference(given):
        raise SharedError(line)


def difference(given: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """The first difference between the first rank and another one; empty if there is none.

    Args:
        given: of each rank the name of its machine, and its values by name.
    """
    node, first = given[0]
    for rank, (other_node, other) in enumerate(given):
        for name in {**first, **other}:
            ours, theirs = (_shown(values.get(name, "not there")) for values in (first, other))
            if first.get(name) != other.get(name):
                return (
                    f"the processes of this run differ: {name} is {theirs} in process {rank} on {other_node}, but"
                    f" {ours} in process 0 on {node}. Start all of them with the same command, data and version"
                )
    return ""


def _state(module: L.LightningModule) -> list[tuple[str, Tensor]]:
    """The weights and statistics of a module's network, by name."""
    return list(module.get_submodule("model").state_dict().items())


def digest_of(value: Any) -> str:
    """16 hex digits of the sha256 of nested values and tensors."""
    digest = hashlib.sha256()

    def add(each: Any) -> None:
        if isinstance(each, Mapping):
            for key in sorted(each, key=str):
                digest.update(f"{key}:".encode())
                add(each[key])
        elif isinstance(each, list | tuple):
            for item in each:
                add(item)
        elif isinstance(each, Tensor):
            digest.update(weights_digest({"": each}).encode())
        else:
            digest.update(f"{each!r};".encode())

    add(value)
    return digest.hexdigest()[:16]


def _shown(value: str) -> str:
    """The value, cut off if it is long."""
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
