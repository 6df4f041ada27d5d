"""Moves batches to a GPU ahead of their use."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Prefetch:
    """Moves batches to a device ahead of their use.

    A thread reads and pins them, and a separate CUDA stream copies them, so that neither the host nor the device waits.
    Each byte of a training stream is used once, so storing the stream on the device would copy just as much, only
    earlier. Errors in the thread are raised in the loop that reads.

    Args:
        batches: images and labels on the CPU, endless or not.
        device: the target device; for a CPU, batches are only read ahead.
    """

    DEPTH = 8
    """Batches that are ready or on their way."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        ready: queue.Queue[Any] = queue.Queue(self.DEPTH)
        ended = threading.Event()
        thread = threading.Thread(target=self._work, args=(ready, ended), daemon=True, name="prefetch")
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = ready.get()
                self.wait_seconds += time.perf_counter() - started
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield self._take(*item)
        finally:
            ended.set()
            thread.join()

    def _work(self, ready: queue.Queue[Any], ended: threading.Event) -> None:
        def put(item: object) -> None:
            while not ended.is_set():
                try:
                    return ready.put(item, timeout=0.05)
                except queue.Full:
                    pass

        try:
            for batch in self._batches:
                put(self._send(batch))
                if ended.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def _send(self, batch: Batch) -> tuple[Batch, "torch.cuda.Event | None"]:
        """Start the copy to the device; the event marks its end."""
        if self._side is None:
            return batch, None
        with torch.cuda.stream(self._side):
            images, labels = (part.pin_memory().to(self._device, non_blocking=True) for part in batch)
            return (images, labels), self._side.record_event()

    def _take(self, batch: Batch, event: "torch.cuda.Event | None") -> Batch:
        """Make the computing stream, not the host, wait for the copy."""
        if event is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(event)
            for part in batch:
                part.record_stream(computing)  # its memory must not be used again before the computation is done
        return batch
