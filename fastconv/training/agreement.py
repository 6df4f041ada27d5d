"""Numbers on which the ranks of a run agree, at best without waiting for each other."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastconv.system.distributed import is_first_rank

Give = Callable[[], Sequence[float]]
"""Returns this rank's numbers: as many at each call, and on each rank."""


class Agreement:
    """Numbers by name, of which every rank gets the largest that any rank gave, or those of the first rank.

    `start` begins to exchange them and `found` has them. In between, ranks compute: the few numbers travel on a process
    group of their own, beside the gradients, and arrive long before those. Every rank must ask for the same names in
    the same order. Used by runs of several ranks only.
    """

    def __init__(self) -> None:
        self._gives: dict[str, tuple[Give, bool]] = {}
        self._group: Any = None
        self._work: Any = None
        self._numbers = torch.empty(0)
        self._places: dict[str, slice] = {}
        self._found: dict[str, list[float]] | None = None
        self._is_first: bool | None = None  # to find out takes longer than the rest of an exchange

    def ask(self, name: str, give: Give, of_first: bool = False) -> None:
        """From now on exchange what `give` returns when the exchange starts.

        Args:
            of_first: every rank gets the first rank's numbers; else the largest of each. `give` is called on all ranks.
        """
        self._gives[name] = (give, of_first)

    def open(self) -> None:
        """Make the process group. All ranks call this, after those of the run have found each other."""
        self._group, self._work, self._found = torch.distributed.new_group(backend="gloo"), None, None

    def close(self) -> None:
        """Give the process group's connections and threads back, unless numbers are on their way: to close it would
        wait for the other ranks, which may be gone or have failed. Then they last as long as the process."""
        is_idle = self._work is None or self._work.is_completed()
        if self._group is not None and is_idle and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group(self._group)
        self._group = self._work = None

    def start(self) -> None:
        """Begin to exchange the numbers, unless that has begun since `clear`. Nothing waits."""
        if self._work is not None or self._found is not None:
            return
        given: list[float] = []
        for name, (give, of_first) in self._gives.items():
            begin = len(given)
            given += self._given(give(), of_first)
            self._places[name] = slice(begin, len(given))
        self._numbers = torch.tensor(given, dtype=torch.float64)
        self._work = self._exchange(self._numbers, waits=False)

    @property
    def found(self) -> dict[str, list[float]]:
        """The numbers that were exchanged last; waits for those that are on their way."""
        if self._found is None:
            self.start()
            self._work.wait()
            numbers, self._found, self._work = self._numbers.tolist(), {}, None
            for name, place in self._places.items():
                self._found[name] = numbers[place]
        return self._found

    def clear(self) -> None:
        """Forget what was found: the next `start` begins another exchange."""
        self._found = None

    def now(self, numbers: Sequence[float], of_first: bool = False) -> list[float]:
        """The largest of each number of all ranks, or the first rank's numbers. Each rank waits for the others."""
        exchanged = torch.tensor(self._given(numbers, of_first), dtype=torch.float64)
        self._exchange(exchanged, waits=True)
        return exchanged.tolist()

    def _given(self, numbers: Sequence[float], of_first: bool) -> Sequence[float]:
        """This rank's numbers; where only those of the first rank count, smaller ones than any on the others."""
        if self._is_first is None:
            self._is_first = is_first_rank()
        return [-math.inf] * len(numbers) if of_first and not self._is_first else numbers

    def _exchange(self, numbers: Tensor, waits: bool) -> Any:
        """Replace numbers by the largest of all ranks; return what waits for them, unless this waits itself."""
        largest = torch.distributed.ReduceOp.MAX
        return torch.distributed.all_reduce(numbers, op=largest, group=self._group, async_op=not waits)


def sum_over_ranks(value: Tensor, device: torch.device) -> Tensor:
    """The sum of all ranks' tensors, in a new one. All ranks call this.

    Args:
        device: that trains. The tensor may be elsewhere: after training Lightning moves the network to the CPU, where
            NCCL exchanges nothing.
    """
    found = value.to(device, copy=True)
    torch.distributed.all_reduce(found)  # Lightning's own waits at a barrier before it
    return found


def average_over_ranks(tensors: Sequence[Tensor], device: torch.device) -> None:
    """Set tensors, in place, to their means over all ranks, in one exchange. All ranks call this.

    Args:
        device: as for `sum_over_ranks`.
    """
    if not tensors:
        return
    sums = sum_over_ranks(torch.cat([each.flatten() for each in tensors]), device)
    means = (sums / torch.distributed.get_world_size()).split([each.numel() for each in tensors])
    for each, mean in zip(tensors, means, strict=True):
        each.copy_(mean.view_as(each))
