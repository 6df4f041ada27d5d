"""Images at some rows of large arrays: the same as a copy of them, in no memory of their own."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from harness import noise, spec_of

from fastconv.data import image_rows
from fastconv.data.batches import SplitBatches
from fastconv.data.configs import Dataset
from fastconv.data.dataset import mean_and_std
from fastconv.data.hashes import content_hashes
from fastconv.data.image_rows import ImageRows
from fastconv.data.loading import hold_out
from fastconv.data.stream.spec import OnlineStream

INDICES = [3, -1, np.int64(2), slice(None), slice(2, 30, 3), [4, 4, 0], np.array([[1, 2], [3, 39]]),
           np.arange(40) % 3 == 0, (5, 0), (slice(3), ..., 1), (..., 0), (slice(2, 5), slice(None), 3)]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_are_those_of_a_copy(index, parts):
    images = noise(57, 3).images
    rows = np.random.default_rng(0).integers(0, 57, 40)
    found = ImageRows(np.array_split(images, parts), rows)
    np.testing.assert_array_equal(found[index], images[rows][index])
    np.testing.assert_array_equal(np.asarray(found), images[rows])
    assert (found.shape, found.dtype, len(found), found.nbytes) == ((40, 9, 11, 3), np.uint8, 40, images[rows].nbytes)


@pytest.mark.parametrize("hashes", [True, False])
def test_what_is_held_out_of_a_large_data_set_is_the_same_stream(monkeypatch, hashes):
    data = noise(400, 3)
    data = dataclasses.replace(data, hashes=content_hashes(data.images) if hashes else None)
    given = Dataset(name="noise", holdout=0.25)
    copied = hold_out(given, data, data)
    monkeypatch.setattr(image_rows, "MAPPED_BYTES", 1000)
    chosen = hold_out(given, data, data)
    for one, other in zip((copied.train, copied.holdout), (chosen.train, chosen.holdout), strict=True):
        assert isinstance(one.images, np.ndarray)
        assert isinstance(other.images, ImageRows)
        assert one.digest == other.digest
        assert mean_and_std(one.images) == mean_and_std(other.images)
        assert spec_of(one) == spec_of(other)
        for batch, same in zip(SplitBatches(one), SplitBatches(other), strict=True):
            assert all((a == b).all() for a, b in zip(batch, same, strict=True))
    one, other = (OnlineStream(spec_of(each.train), each.train).rows(0, 450) for each in (copied, chosen))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    twice = chosen.train.take(np.arange(0, 300, 7))
    np.testing.assert_array_equal(twice.images[:], copied.train.images[::7])
    assert twice.images.arrays[0] is data.images, "an index of an index is one index"


def test_holding_out_takes_no_memory_for_images(monkeypatch, tmp_path):
    images = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (4000, 64, 64, 1))
    data = dataclasses.replace(noise(4000, 1), images=images)
    monkeypatch.setattr(image_rows, "MAPPED_BYTES", 10**6)
    tracemalloc.start()
    try:
        hold_out(Dataset(name="noise", holdout=0.5), data, data)
        assert tracemalloc.get_traced_memory()[1] < images.nbytes / 10
    finally:
        tracemalloc.stop()
