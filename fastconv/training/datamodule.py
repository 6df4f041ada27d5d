"""The LightningDataModule: batches of a stream to train on, and splits to score."""

import lightning as L
import torch

from fastconv.data.batches import SplitBatches, StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.data.features import KeptFeatures
from fastconv.data.prefetch import Prefetch
from fastconv.data.stream.device import DeviceStream
from fastconv.data.stream.spec import Stream


class ShardDataModule(L.LightningDataModule):
    """Gives a Trainer the batches of a stream to train on, and those of the splits to score.

    A training batch has the images of one optimizer step on this rank, uint8 [parts, micro_batch_size, H, W, C], and
    their labels, int64 [parts, micro_batch_size]. A batch to score has images uint8 [B, H, W, C] and labels int64 [B].

    Its state in a checkpoint is the number of trained batches, from which a run resumes. The number of read batches is
    larger, since the Trainer reads one batch ahead.

    Args:
        stream: the training stream.
        batch_size: images per optimizer step over all ranks.
        micro_batch_size: images per microbatch; `batch_size` is a multiple of it times the ranks.
        validate: images for validations during training; None for none.
        validate_samples: number of these images to score; None for all.
        test: the test split.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        micro_batch_size: int,
        validate: ImageData | None,
        validate_samples: int | None,
        test: ImageData,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._validate, self._validate_samples, self._test = validate, validate_samples, test
        self.kept: KeptFeatures | None = None
        """Features of training images that are used again; None to read all images."""
        self._train_batches: StreamBatches | Prefetch | None = None
        self._first_batch, self._mixed = 0, False
        self._waited_before = 0.0

    @property
    def wait_seconds(self) -> float:
        """Seconds that training has waited for batches."""
        return self._waited_before + (self._train_batches.wait_seconds if self._train_batches is not None else 0.0)

    def state_dict(self) -> dict[str, float]:
        return {
            "batches": self.trainer.global_step if self.trainer else self._first_batch,
            "wait_seconds": self.wait_seconds,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._first_batch, self._waited_before = int(state["batches"]), state["wait_seconds"]

    def train_dataloader(self) -> StreamBatches | Prefetch:
        rank, ranks = self._place()
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        batches = StreamBatches(
            self._stream, self._batch_size, self._micro_batch_size, rank, ranks, self._first_batch, self.kept
        )
        if isinstance(self._stream, DeviceStream):
            self._stream.place_on(device)
            self._train_batches = batches
        else:  # on a CPU, a thread would cost the training step as much as it saves
            self._train_batches = Prefetch(batches, device) if device.type == "cuda" else batches
        return self._train_batches

    def val_dataloader(self) -> SplitBatches | list[object]:
        if self._validate is None:
            return []
        return SplitBatches(self._validate, self._validate_samples, *self._place(), self._mixed)

    def test_dataloader(self) -> SplitBatches:
        return SplitBatches(self._test, None, *self._place(), self._mixed)

    def validate_all(self) -> None:
        """Score all validation images from now on."""
        self._validate_samples = None

    def mix(self) -> None:
        """Make each batch an even sample of its split from now on, since there may be time for only some batches."""
        self._mixed = True

    def _place(self) -> tuple[int, int]:
        """This rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
