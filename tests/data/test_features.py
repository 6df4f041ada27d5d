"""Kept features: in which order batches come, and what takes the place of their images."""

import numpy as np
import pytest
import torch
from harness import noise, spec_of

from fastconv.data.batches import StreamBatches
from fastconv.data.features import KeptFeatures
from fastconv.data.stream.spec import OnlineStream


def test_new_batches_come_in_order_and_then_each_once_in_a_round():
    kept = KeptFeatures(seed=3)
    assert [kept.place(batch) for batch in range(9)] == list(range(9))
    kept.new = 5
    places = [kept.place(batch) for batch in range(25)]
    assert places[:5] == list(range(5))
    rounds = [places[at : at + 5] for at in range(5, 25, 5)]
    assert all(sorted(each) == list(range(5)) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    again = KeptFeatures(seed=3)
    again.new = 5
    assert [again.place(batch) for batch in reversed(range(25))] == places[::-1]
    again = KeptFeatures(seed=4)
    again.new = 5
    assert [again.place(batch) for batch in range(25)] != places


def test_features_take_the_place_of_their_images():
    data, kept = noise(20, 3), KeptFeatures(seed=0)
    stream = OnlineStream(spec_of(data), data)
    plain = StreamBatches(stream, 4, 2)
    images = [batch for batch, _ in zip(plain, range(3), strict=False)]
    kept.new = 3
    features = torch.rand(2, 2, 7)
    kept.put(1, features, torch.zeros(2, 2, dtype=torch.int64))
    kept.put(1, features, torch.zeros(2, 2, dtype=torch.int64))
    assert kept.bytes == 2 * 2 * 7 * 4 + 2 * 2 * 8
    found = [batch for batch, _ in zip(StreamBatches(stream, 4, 2, kept=kept), range(12), strict=False)]
    for batch, (values, labels) in enumerate(found):
        place = kept.place(batch)
        if place == 1:
            assert values is features
        else:
            assert torch.equal(values, images[place][0])
            assert torch.equal(labels, images[place][1])
    assert sum(values is features for values, _ in found) == 4


@pytest.mark.parametrize("first", [4, 7])
def test_a_run_goes_on_at_its_place(first):
    data, kept = noise(20, 1), KeptFeatures(seed=0)
    kept.new = 3
    stream = OnlineStream(spec_of(data), data)
    whole = [batch for batch, _ in zip(StreamBatches(stream, 5, 5, kept=kept), range(10), strict=False)]
    rest = StreamBatches(stream, 5, 5, first=first, kept=kept)
    for (values, labels), (expected, wanted) in zip(rest, whole[first:], strict=False):
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(labels, wanted)
