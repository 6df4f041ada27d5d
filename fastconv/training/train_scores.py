"""Loss and accuracy of training images, read from the device without making it wait."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastconv.system.gpu import Event, recorded_event


@dataclass(frozen=True)
class PendingScores:
    """Sums over training images that are on their way to the host.

    Args:
        sums: of losses, of correct predictions and of images, float [3], on the CPU or an Apple GPU.
        copied: the event after which the GPU has written them; None if they are there.
    """

    sums: Tensor
    copied: Event | None = None

    @classmethod
    def of(cls, sums: Tensor) -> "PendingScores":
        """Start to copy sums, which may be changed after this call."""
        if sums.device.type == "cpu":
            return cls(sums.clone())
        if sums.device.type == "cuda":
            copied = torch.empty_like(sums, device="cpu", pin_memory=True)
            copied.copy_(sums, non_blocking=True)
        else:
            copied = sums.clone()
        return cls(copied, recorded_event(sums.device))

    def is_ready(self) -> bool:
        """Whether `read` need not wait."""
        return self.copied is None or bool(self.copied.query())

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy; zeros if there are no images."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, correct, count = self.sums.tolist()
        return loss / max(count, 1), correct / max(count, 1)
