"""Features of training images that a frozen network has computed, kept so that its head can learn from them again."""

import numpy as np
from torch import Tensor


class KeptFeatures:
    """Features of the batches of a stream, and the order in which batches are trained on.

    Batch k of the training is batch k of the stream as long as they are new. After that the new ones come again and
    again, each once before any comes twice, in an order that the seed decides. Features that are not there, as after a
    run was resumed, are computed again from the images of their batch.

    Args:
        seed: of the order.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.new: int | None = None
        """Number of batches that are new; None while all are."""
        self.bytes = 0
        """Size of the features that are kept."""
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._round: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def place(self, batch: int) -> int:
        """The batch of the stream that batch number `batch` of the training is."""
        if self.new is None or batch < self.new:
            return batch
        number, at = divmod(batch - self.new, self.new)
        if self._round[0] != number:
            order = np.random.Generator(np.random.Philox(key=np.array([self._seed, number], np.uint64)))
            self._round = number, order.permutation(self.new)
        return int(self._round[1][at])

    def get(self, place: int) -> tuple[Tensor, Tensor] | None:
        """Features float [parts, n, D] and labels int64 [parts, n] of a batch of the stream; None if not kept."""
        return self._kept.get(place)

    def forget(self) -> None:
        """Keep none any more."""
        self._kept.clear()
        self.bytes = 0

    def put(self, place: int, features: Tensor, labels: Tensor) -> None:
        """Keep the features and labels of a batch of the stream."""
        if place not in self._kept:
            self.bytes += features.nbytes + labels.nbytes
        self._kept[place] = features, labels


def is_reusing(module: object) -> bool:
    """Whether a module trains on features that it has kept (`ImageClassifier.kept`)."""
    kept = getattr(module, "kept", None)
    return isinstance(kept, KeptFeatures) and kept.new is not None
