"""The LightningDataModule: microbatches of a stream for training, whole splits for scoring."""

import time
from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from torch import Tensor

from fastconv.data.dataset import ImageData
from fastconv.data.prefetch import Prefetch
from fastconv.data.stream.spec import Stream


class StreamBatches:
    """Endless microbatches of one rank: batch k of the stream is its rows [k * batch_size, (k + 1) * batch_size).

    No sample is dropped and every batch has the same size; epochs follow each other within a batch. Each of `ranks`
    takes its own slice of every batch, so the batches are the same for every number of ranks.

    Begins with batch `first`. Yields images uint8 [norm_batch, H, W, C] and labels int64 [norm_batch]. Adds the time it
    takes, which training spends waiting, to `wait_seconds`.
    """

    def __init__(
        self, stream: Stream, batch_size: int, norm_batch: int, rank: int = 0, ranks: int = 1, first: int = 0
    ) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._norm_batch = norm_batch
        self._first = first
        self._slice = range(rank * batch_size // ranks, (rank + 1) * batch_size // ranks, norm_batch)
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batch = self._first
        while True:
            for offset in self._slice:
                started = time.perf_counter()
                start = batch * self._batch_size + offset
                images, labels = self._stream.rows(start, start + self._norm_batch)
                tensors = torch.from_numpy(images), torch.from_numpy(labels)
                self.wait_seconds += time.perf_counter() - started
                yield tensors
            batch += 1


class SplitBatches:
    """A split, or an even sample of it, in batches of images uint8 [B, H, W, C] and labels int64 [B].

    Each of `ranks` has every `ranks`-th image, in as many batches as the others.
    """

    BATCH_SIZE = 500

    def __init__(self, data: ImageData, samples: int | None = None, rank: int = 0, ranks: int = 1) -> None:
        self._data = data
        count = min(samples or len(data), len(data))
        rows = np.linspace(0, len(data), count, endpoint=False).astype(np.int64)
        self._batches = np.array_split(rows[rank::ranks], -(-count // (self.BATCH_SIZE * ranks)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self._batches:
            yield torch.from_numpy(self._data.images[rows]), torch.from_numpy(self._data.labels[rows])


class ShardDataModule(L.LightningDataModule):
    """Feeds a Trainer from a stream of training images and from the splits to score.

    Its state in a checkpoint is the number of batches trained, which is where a run goes on: the Trainer reads one
    batch ahead, so that the number of batches read says nothing.

    Args:
        stream: precomputed shards, or the same stream augmented online.
        batch_size: images per optimizer step over all ranks.
        norm_batch: images per microbatch; `batch_size` is a multiple of it times the ranks.
        validate: images for the curves during training, or None.
        validate_samples: how many of them to score; None for all.
        test: the test split.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        norm_batch: int,
        validate: ImageData | None,
        validate_samples: int | None,
        test: ImageData,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._batch_size, self._norm_batch = batch_size, norm_batch
        self._validate, self._validate_samples, self._test = validate, validate_samples, test
        self._train_batches: StreamBatches | Prefetch | None = None
        self._first_batch = 0
        self._waited_before = 0.0

    @property
    def wait_seconds(self) -> float:
        """Seconds that training has waited for batches."""
        return self._waited_before + (self._train_batches.wait_seconds if self._train_batches is not None else 0.0)

    def state_dict(self) -> dict[str, float]:
        return {"batches": self.trainer.global_step, "wait_seconds": self.wait_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._first_batch, self._waited_before = state["batches"], state["wait_seconds"]

    def train_dataloader(self) -> StreamBatches | Prefetch:
        rank, ranks = self._place()
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type == "cuda":
            whole = self._batch_size // ranks
            batches = StreamBatches(self._stream, self._batch_size, whole, rank, ranks, self._first_batch)
            self._train_batches = Prefetch(batches, device, self._norm_batch)
        else:  # a thread would take from the training step what it saves here
            self._train_batches = StreamBatches(
                self._stream, self._batch_size, self._norm_batch, rank, ranks, self._first_batch
            )
        return self._train_batches

    def val_dataloader(self) -> SplitBatches | list:
        if self._validate is None:
            return []
        return SplitBatches(self._validate, self._validate_samples, *self._place())

    def test_dataloader(self) -> SplitBatches:
        return SplitBatches(self._test, None, *self._place())

    def validate_all(self) -> None:
        """Score the whole of the validation images from now on."""
        self._validate_samples = None

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
