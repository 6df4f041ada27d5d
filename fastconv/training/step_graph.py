"""The whole training step as one CUDA graph: the host starts it with one call, instead of hundreds of kernels.

Method: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor

from fastconv.optim.momentum import momentum_of
from fastconv.optim.muon_sgd import MuonSGD
from fastconv.system.errors import reason, warn
from fastconv.system.gpu import synchronize
from fastconv.training.step import Learn, WholeStep, train_step

# As in torch.cuda.make_graphed_callables: cuDNN chooses its algorithms, and the allocator and the optimizer what they
# need, before the capture.
WARM_UPS = 3


class Graphs(Protocol):
    """The graphs of a device, as a step needs them."""

    def warm_up(self, work: Callable[[], object], times: int) -> None:
        """Do the work several times, apart from what the device does otherwise."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record the work without doing it. Returns what does it, and the tensor that has its result from then on."""

    def send(self, values: list[list[float]], target: Tensor) -> None:
        """Set a tensor on the device, without waiting."""


class CudaGraphs:
    """The graphs of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._side = device, torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], object], times: int) -> None:
        """Do the work on a stream of its own, on which it is captured later."""
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            for _ in range(times):
                work()
        current.wait_stream(self._side)

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Record the work. Raises what the work raises, or torch's error for what no graph can repeat."""
        before, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
        try:
            # Threads that pin batches meanwhile must not end the capture.
            with torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
                result = work()
        except BaseException:
            with suppress(Exception):  # torch leaves the allocator in the capture that failed
                torch._C._cuda_endAllocateToPool(self._device.index or 0, graph.pool())
            raise
        finally:
            torch.cuda.set_stream(before)  # and the stream, too
        return graph.replay, result

    def send(self, values: list[list[float]], target: Tensor) -> None:
        """Copy from memory that torch's allocator keeps until the copy is done, so that the host need not wait."""
        target.copy_(torch.tensor(values).pin_memory(), non_blocking=True)


@dataclass(frozen=True)
class Captured:
    """A step that was captured.

    Args:
        key: what it was captured for; a step with another key needs another graph.
        fixed: numbers of the optimizer that it has as constants.
        images, labels: the tensors that it reads its batch from.
        values: the tensor that it reads its learning rates and momenta from, float [2, groups].
        replay: does the step.
        loss: the tensor that has the mean loss after it, float [].
    """

    key: tuple[object, ...]
    fixed: list[float]
    images: Tensor
    labels: Tensor
    values: Tensor
    replay: Callable[[], object]
    loss: Tensor


class GraphedStep:
    """`WholeStep` as a CUDA graph, which is captured when a step is first called, and again for batches, images or
    trainable weights that differ.

    The batch is copied into tensors of the graph's own. Learning rates, and the momenta of `MuonSGD`, are read from the
    device, so that they may change from step to step; the parameter groups keep their numbers. The capture leaves
    weights, statistics, the optimizer's state and the random state as they are. Where it fails, and from the step on
    in which another number of the optimizer changes, steps are called, and one line says so.

    Args:
        module: it is trained by a Trainer on one device, and optimizes manually. Its optimizer starts from a state of
            zeros, and can read learning rates from the device, as torch's fused ones can.
        timed: a context for captures, such as a segment of a clock.
        graphs: of the module's device; None for CUDA's.
    """

    def __init__(
        self,
        module: L.LightningModule,
        timed: Callable[[], AbstractContextManager[object]] = nullcontext,
        graphs: Graphs | None = None,
    ) -> None:
        trainer = module.trainer
        self._module, self._timed = module, timed
        self._graphs = graphs or CudaGraphs(module.device)
        self._called = WholeStep(module)
        self._optimizer = trainer.optimizers[0]
        self._forward = trainer.precision_plugin.train_step_context
        # The optimizer's steps are the Trainer's global_step, which Lightning counts where it calls the optimizer.
        self._counted = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        self._graph: Captured | None = None
        self._sent: list[list[float]] = []
        self.captures = 0
        """Number of graphs that were captured."""
        self.gave_up: str | None = None
        """Why steps are called; None as long as graphs do them."""

    def __call__(self, images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> Tensor:
        """Train on a batch (see `train_step`). The loss that is returned is overwritten by the next call."""
        key = self._key(images, labels, learn)
        if self.gave_up is None and (self._graph is None or self._graph.key != key):
            self._graph = None  # its memory is for the next one
            self._capture(key, images, labels, learn, sums)
        if self._graph is not None and self._graph.fixed != self._fixed():
            self._give_up("a momentum or weight decay that the optimizer reads on the host changes")
        if self._graph is None:
            return self._called(images, labels, learn, sums)
        graph, values = self._graph, self._values()
        graph.images.copy_(images, non_blocking=True)
        graph.labels.copy_(labels, non_blocking=True)
        if values != self._sent:
            self._graphs.send(values, graph.values)
            self._sent = values
        graph.replay()
        self._counted.increment_ready()
        self._counted.increment_completed()
        return graph.loss

    def release(self) -> None:
        """Give back the memory of the graph."""
        self._graph = None

    def _key(self, images: Tensor, labels: Tensor, learn: Learn) -> tuple[object, ...]:
        """The batch's shapes, the images' size and the groups that are trained, for which a graph is captured."""
        trained = [group["params"][0].requires_grad for group in self._optimizer.param_groups]
        return images.shape, labels.shape, learn, getattr(self._module, "side_share", 1.0), *trained

    def _fixed(self) -> list[float]:
        """The optimizer's numbers that a graph has as constants: weight decays, and momenta that the host reads."""
        groups = self._optimizer.param_groups
        momenta = [] if isinstance(self._optimizer, MuonSGD) else [momentum_of(group) for group in groups]
        return [*momenta, *(group["weight_decay"] for group in groups)]

    def _values(self) -> list[list[float]]:
        """The learning rates and the momenta of the parameter groups: 2 lists of [groups] numbers."""
        groups = self._optimizer.param_groups
        return [[group["lr"] for group in groups], [momentum_of(group) for group in groups]]

    def _capture(self, key: tuple[object, ...], images: Tensor, labels: Tensor, learn: Learn, sums: Tensor) -> None:
        """Capture the step, or say why that is not possible."""
        synchronize(images.device)  # count running computation as training time
        images, labels = images.clone(), labels.clone()
        values = torch.zeros(2, len(self._optimizer.param_groups), device=images.device)
        state = State(self._module, self._optimizer)

        def work() -> Tensor:
            # Weights that were cast before the capture would be constants in it.
            torch.clear_autocast_cache()
            return train_step(images, labels, learn, self._optimizer, sums, self._forward)

        try:
            with (
                self._timed(),
                self._values_on_device(values),
                torch.autocast(images.device.type, enabled=False),
                torch.random.fork_rng([images.device] if images.is_cuda else []),
            ):
                self._graphs.warm_up(work, WARM_UPS)
                state.restore()
                replay, loss = self._graphs.capture(work)
                torch.clear_autocast_cache()
        except Exception as error:  # of a driver, an allocator or a network, each in its own words
            state.restore(keep_new=False)
            self._give_up(reason(error))
            return
        self._graph, self._sent = Captured(key, self._fixed(), images, labels, values, replay, loss), []
        self.captures += 1

    def _give_up(self, why: str) -> None:
        """Call steps from now on, and warn of the reason."""
        self._graph, self.gave_up = None, why
        warn(f"training goes on without a CUDA graph of its step, and may be slower: {why}")

    @contextmanager
    def _values_on_device(self, values: Tensor) -> Iterator[None]:
        """Within the block, the optimizer reads learning rates, and momenta if it can, from `values`."""
        groups = self._optimizer.param_groups
        before = [dict(group) for group in groups]
        for at, group in enumerate(groups):
            group["lr"] = values[0, at]
            if isinstance(self._optimizer, MuonSGD):
                group["momentum"] = values[1, at]
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, own in zip(groups, before, strict=True):
                group.update(own)


class State:
    """The tensors that a step changes: weights, statistics and sums of a module, and the state of its optimizer."""

    def __init__(self, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._tensors = [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
        self._copies = [tensor.clone() for tensor in self._tensors]
        self._optimizer = optimizer
        self._kept: dict[Any, dict[str, Tensor]] = {
            param: {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
            for param, state in optimizer.state.items()
        }

    @torch.no_grad()
    def restore(self, keep_new: bool = True) -> None:
        """Set all of it as it was, in place.

        Args:
            keep_new: whether state that the optimizer has made since stays, as zeros, in which a graph may keep it.
        """
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        for param, state in list(self._optimizer.state.items()):
            if param not in self._kept and not keep_new:
                del self._optimizer.state[param]
                continue
            for name, value in state.items():
                if isinstance(value, Tensor):
                    kept = self._kept.get(param, {}).get(name)
                    if kept is None:
                        value.zero_()
                    else:
                        value.copy_(kept)
