"""The exchange of gradients between ranks, by the reducer of torch's DistributedDataParallel (DDP)."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from fastconv.system.errors import SharedError
from fastconv.system.wording import first_names

# Parameters without a gradient are named up to this number.
NAMED = 3


class GradientExchange:
    """Averages gradients over the ranks while they are computed.

    DDP prepares its reducer in its `forward`, through which Lightning calls a module's whole training step, some 100
    Python functions for each. No step of fastconv needs what else `forward` does: it moves inputs, looks for parameters
    without a gradient, and copies the first rank's statistics of batch norm, of which each rank keeps its own.

    Args:
        wrapper: around the module that trains. All of its parameters get a gradient in each step.
    """

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self._wrapper = wrapper
        self.accumulate = wrapper.no_sync
        """Makes a context in which gradients are only added up."""
        self._reducer = wrapper.reducer

    def prepare(self) -> None:
        """Exchange the gradients that are computed next, unless they are only added up."""
        wrapper = self._wrapper
        if wrapper.require_backward_grad_sync:
            # What Lightning calls too for a module that optimizes manually. New buckets are made once.
            self._reducer._rebuild_buckets()
            self._reducer.prepare_for_backward([])

    def check(self) -> None:
        """Make sure that the gradients just computed were exchanged: the reducer waits for those of all parameters.

        Raises SharedError for parameters without one, which torch would notice in the next step, if at all.
        """
        try:
            self._reducer._check_reducer_finalized()
        except RuntimeError as error:
            raise SharedError(
                f"the loss does not depend on {self._missing()}, but ranks wait for a gradient of each parameter in"
                " each step: remove what is not used, or set its requires_grad to False, or train on one device"
            ) from error

    def _missing(self) -> str:
        """The names of parameters without a gradient."""
        ignored = getattr(self._wrapper, "parameters_to_ignore", ())
        named = [(name, each) for name, each in self._wrapper.module.named_parameters() if name not in ignored]
        missing = [name for name, each in named if each.requires_grad and each.grad is None]
        # One with a gradient of an earlier part of the batch, or frozen since the run began, is not found.
        return first_names(missing, NAMED) or "some parameters"

    @classmethod
    def of(cls, trainer: L.Trainer) -> "GradientExchange | None":
        """The exchange of a Trainer that trains by DDP; None for others, and if DDP's settings need its `forward`."""
        strategy, wrapper = trainer.strategy, trainer.strategy.model
        # The types themselves: a subclass may do more.
        if type(strategy) is not DDPStrategy or type(wrapper) is not DistributedDataParallel:
            return None
        needs_forward = (
            wrapper.find_unused_parameters
            or wrapper.static_graph
            or wrapper.mixed_precision is not None
            or wrapper.module is not trainer.lightning_module
            or strategy._model_averager is not None
        )
        return None if needs_forward else cls(wrapper)
