"""The stream of `stream=device`: the images lie on the device that trains, and are augmented there.

The device is a GPU, or any other that torch has: with a CPU, the same code runs on a copy of the images in memory.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastconv.data.augment.transform import DeviceTransform
from fastconv.data.dataset import ImageData
from fastconv.data.image_rows import MAPPED_BYTES
from fastconv.data.stream.spec import OnlineStream, StreamSpec
from fastconv.system.errors import InputError
from fastconv.system.memory import release_pages

# Bytes of images that are copied to the device at a time.
COPIED_BYTES = 64 * 2**20

Timed = Callable[[], AbstractContextManager[object]]
"""Makes a context in which seconds are counted."""


@dataclass(frozen=True)
class EpochOnDevice:
    """An `EpochPlan` on a device: `order` int64 [N], the `labels` int64 [N] in this order, and for each transform its
    name and its decisions, [N] or [N, K]. `copied` is when they are there; None if they are."""

    order: Tensor
    labels: Tensor
    steps: tuple[tuple[str, DeviceTransform, Tensor], ...]
    copied: torch.cuda.Event | None

    def tensors(self) -> list[Tensor]:
        """All of its tensors."""
        return [self.order, self.labels, *(drawn for _, _, drawn in self.steps)]


class DeviceStream(OnlineStream):
    """Augments whole batches on a device, by the numbers of the same `plan_epoch`: the bytes are those of the shards.

    On a GPU, a thread plans the next epoch and copies its numbers while the current one is trained on, and neither the
    host nor the device waits for the other. `rows` computes on the host, as `OnlineStream` does.

    Args:
        data: the training images.
        timed: enters the segment of a clock in which the images are copied.
        plans_ahead: whether a thread plans the next epoch; None for only with CUDA, as on a CPU it would cost the
            training step as much as it saves.
    """

    def __init__(
        self, spec: StreamSpec, data: ImageData, timed: Timed = nullcontext, plans_ahead: bool | None = None
    ) -> None:
        super().__init__(spec, data)
        self._timed, self._plans_ahead = timed, plans_ahead
        self._device: torch.device | None = None
        self._images = self._fill = torch.empty(0, dtype=torch.uint8)
        self._thread: ThreadPoolExecutor | None = None
        self._side: torch.cuda.Stream | None = None  # copies plans beside the training step
        self._epoch = -1
        self._plan: EpochOnDevice | None = None
        self._next: tuple[int, Future[EpochOnDevice]] | None = None

    def place_on(self, device: torch.device) -> None:
        """Copy the images to the device that trains, unless they are there. Raises InputError if they do not fit."""
        if self._device == device:
            return
        with self._timed():
            try:
                self._images = copy_to(device, self._data.images)
            except torch.OutOfMemoryError as error:
                raise InputError(does_not_fit(self.spec, self._data.images.nbytes, "no more is free")) from error
            self._fill = torch.from_numpy(self.spec.fill).to(device)
        on_gpu = device.type == "cuda"  # Apple's has no streams to copy in
        if on_gpu if self._plans_ahead is None else self._plans_ahead:
            self._thread = ThreadPoolExecutor(1, "plan")
        self._side = torch.cuda.Stream(device) if on_gpu else None
        self._device = device

    def tensors(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Samples [start, stop) of the endless sequence, on the device: images uint8 [n, H, W, C], labels int64 [n].

        Raises InputError for a user's own transform that does not return such images.
        """
        parts = []
        while start < stop:
            epoch, position = divmod(start, self.spec.samples)
            taken = min(stop - start, self.spec.samples - position)
            parts.append(self._augmented(self._planned(epoch), slice(position, position + taken)))
            start += taken
        if len(parts) == 1:
            return parts[0]
        images, labels = zip(*parts, strict=True)
        return torch.cat(images), torch.cat(labels)

    def _augmented(self, plan: EpochOnDevice, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows of an epoch, as `tensors` returns them. Raises InputError as it does."""
        images = self._images.index_select(0, plan.order[rows])
        for name, transform, drawn in plan.steps:
            changed = transform.apply_on_device(images, drawn[rows], self._fill)
            if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (images.shape, torch.uint8):
                shape = "x".join(map(str, images.shape))
                raise InputError(f"{name}.apply_on_device must return images uint8, {shape}")
            images = changed
        return images, plan.labels[rows]

    def _planned(self, epoch: int) -> EpochOnDevice:
        """The plan of an epoch. In a thread, the next one is made meanwhile."""
        if self._epoch != epoch or self._plan is None:
            ahead = self._next[1] if self._next and self._next[0] == epoch else None
            plan = ahead.result() if ahead else self._copied(epoch)
            if plan.copied is not None:  # make the computing stream, not the host, wait
                computing = torch.cuda.current_stream(self._device)
                computing.wait_event(plan.copied)
                for tensor in plan.tensors():
                    tensor.record_stream(computing)
            self._epoch, self._plan = epoch, plan
            if self._thread is not None:
                self._next = epoch + 1, self._thread.submit(self._copied, epoch + 1)
        return self._plan

    def _copied(self, epoch: int) -> EpochOnDevice:
        """Plan an epoch, and start to copy its numbers to the device.

        Raises InputError for a transform that only the host can compute.
        """
        plan = self.spec.plan(self._data, epoch)
        steps = []
        for step in plan.steps:
            if not isinstance(step.transform, DeviceTransform):
                raise InputError(f"stream=device cannot do {step.name}: use stream=precomputed")
            steps.append((step.name, step.transform, self._send(step.drawn)))
        order, labels = self._send(plan.order), self._send(self._data.labels[plan.order])
        return EpochOnDevice(order, labels, tuple(steps), None if self._side is None else self._side.record_event())

    def _send(self, numbers: np.ndarray) -> Tensor:
        """Copy an array to the device. On a GPU, the copy may still be on its way."""
        tensor = torch.from_numpy(np.ascontiguousarray(numbers))
        if self._side is None:
            return tensor.to(self._device)
        with torch.cuda.stream(self._side):
            return tensor.pin_memory().to(self._device, non_blocking=True)

    def close(self) -> None:
        """Stop the thread, and give back the device's memory."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = self._next = self._plan = self._device = None
        self._images = torch.empty(0, dtype=torch.uint8)
        super().close()


def copy_to(device: torch.device, images: np.ndarray) -> Tensor:
    """A copy of images uint8 [N, H, W, C] on a device. They may be a memory map, which is read in parts."""
    copied = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, COPIED_BYTES // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        copied[rows] = torch.from_numpy(np.array(images[rows]))
        if images.nbytes > MAPPED_BYTES:
            release_pages(images)
    return copied


def does_not_fit(spec: StreamSpec, needed: int, free: str) -> str:
    """Why images of some bytes cannot lie on a device, and what to do."""
    return (
        f"stream=device is not possible: the training images of {spec.dataset} need {needed / 1e9:.3g} GB of the"
        f" device's memory, {free}. Use stream=precomputed"
    )
