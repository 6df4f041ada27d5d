"""Counts the steps that the host has started on a GPU, but that the GPU has not finished."""

from collections import deque

import torch

from fastconv.system.gpu import Event, recorded_event


class StepsAhead:
    """Counts the steps that the host is ahead, and bounds their number, so that the host's clock is true.

    Args:
        most: number of steps that the host may be ahead.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[Event] = deque()

    @property
    def count(self) -> int:
        """Number of steps that the device has not finished; 0 on a CPU."""
        return sum(not event.query() for event in self._events) if self._events else 0

    def add(self, device: torch.device) -> None:
        """Record that all of a step was started; wait if the host is too far ahead."""
        event = recorded_event(device)
        if event is None:
            return
        self._events.append(event)
        if len(self._events) > self._most:
            self._events.popleft().synchronize()
