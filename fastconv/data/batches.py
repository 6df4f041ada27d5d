"""Batches: those of a stream for training, in microbatches, and whole splits for scoring."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastconv.data.dataset import ImageData, evenly_spread, images_at_once
from fastconv.data.features import KeptFeatures
from fastconv.data.stream.device import DeviceStream
from fastconv.data.stream.spec import Stream


class StreamBatches:
    """Yields the batches of one rank, in microbatches, without end.

    Batch k has the stream's rows [k * batch_size, (k + 1) * batch_size).

    No sample is dropped and every batch has the same size, so a batch may span two epochs. Each of `ranks` takes its
    own slice of every batch, so the batches are the same for every number of ranks.

    Starts with batch `first`. Yields images uint8 [parts, micro_batch_size, H, W, C] and labels int64 [parts,
    micro_batch_size], on the CPU or, of a `DeviceStream`, on its device. With `kept`, batches come in its order, and
    features float [parts, micro_batch_size, D] in the place of images where they are kept. Adds the seconds that
    training waits for batches to `wait_seconds`.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        first: int = 0,
        kept: KeptFeatures | None = None,
    ) -> None:
        self._stream = stream
        self._kept = kept
        self._batch_size = batch_size
        self._micro_batch_size = micro_batch_size
        self._first = first
        self._slice = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batch = self._first
        while True:
            started = time.perf_counter()
            place = self._kept.place(batch) if self._kept else batch
            known = self._kept.get(place) if self._kept else None
            images, labels = known or self._parts(place * self._batch_size)
            self.wait_seconds += time.perf_counter() - started
            yield images, labels
            batch += 1

    def _parts(self, start: int) -> tuple[Tensor, Tensor]:
        images, labels = self._tensors(start + self._slice.start, start + self._slice.stop)
        parts = images.view(-1, self._micro_batch_size, *images.shape[1:])
        return parts, labels.view(-1, self._micro_batch_size)

    def _tensors(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if isinstance(self._stream, DeviceStream):
            return self._stream.tensors(start, stop)
        images, labels = self._stream.rows(start, stop)
        return torch.from_numpy(images), torch.from_numpy(labels)


class SplitBatches:
    """A split, or an even sample of it, in batches of images uint8 [B, H, W, C] and labels int64 [B].

    Each of `ranks` gets every `ranks`-th image, and all get the same number of batches. With `mixed`, each batch is an
    even sample of the split, so that some of them tell of all. `batch_size` is the most images of a batch, or one less.
    """

    def __init__(
        self, data: ImageData, samples: int | None = None, rank: int = 0, ranks: int = 1, mixed: bool = False
    ) -> None:
        self._data, self.batch_size = data, images_at_once(data.images.shape[1:])
        rows = evenly_spread(len(data), samples or len(data))
        # None is empty where images are so large that batches have a single one, and a rank has one less than others.
        batches = min(-(-len(rows) // (self.batch_size * ranks)), max(1, len(rows) // ranks))
        own = rows[rank::ranks]
        self._batches = [own[at::batches] for at in range(batches)] if mixed else np.array_split(own, batches)

    def __len__(self) -> int:
        return len(self._batches)

    def images(self, places: Tensor) -> Tensor:
        """Images uint8 [B, H, W, C] by their places int64 [B] in the order of the batches."""
        return torch.from_numpy(self._data.images[np.concatenate(self._batches)[places.numpy()]])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self._batches:
            yield torch.from_numpy(self._data.images[rows]), torch.from_numpy(self._data.labels[rows])
