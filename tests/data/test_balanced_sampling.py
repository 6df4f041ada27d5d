"""Epochs that have as many images of one class as of another."""

import dataclasses

import numpy as np
import pytest
from harness import STANDARD, noise, spec_of

from fastconv.data.augment.plan import BalancedSampling, SkipSchedule, plan_epoch
from fastconv.data.dataset import ImageData
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.data.stream.writer import write_stream

# Images of each class: one of them is rare.
COUNTS = (500, 380, 20)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))


def planned(epoch: int, sampling: BalancedSampling | None, schedule: SkipSchedule | None = None):
    return plan_epoch(3, epoch, len(LABELS), 9, 11, STANDARD, schedule, sampling)


def test_each_class_comes_equally_often_and_no_image_more_often_than_it_must():
    sampling = BalancedSampling(LABELS)
    plans = [planned(epoch, sampling) for epoch in range(12)]
    for plan in plans:
        assert np.bincount(LABELS[plan.order]).tolist() == [300, 300, 300]
        times = np.bincount(plan.order, minlength=len(LABELS))
        for label, most in enumerate((1, 1, 15)):
            assert set(times[label == LABELS]) <= {most - 1, most}
        first, last = np.bincount(LABELS[plan.order[:450]]), np.bincount(LABELS[plan.order[450:]])
        assert (abs(first - last) < 60).all(), "the classes are mixed"
    whole = np.bincount(np.concatenate([plan.order for plan in plans]), minlength=len(LABELS))
    assert whole.min() > 0, "every image of a large class comes in some epoch"
    assert not np.array_equal(plans[0].order, plans[1].order)


def test_an_image_that_comes_again_is_augmented_anew():
    plan = planned(0, BalancedSampling(LABELS))
    rare = plan.order == np.flatnonzero(LABELS == 2)[0]
    drawn = np.column_stack([plan.drawn("crop").reshape(len(rare), -1)[rare], plan.drawn("cutout")[rare]])
    assert rare.sum() == 15
    assert len(np.unique(drawn, axis=0)) > 10


def test_classes_are_equal_among_the_images_that_are_not_skipped():
    skips = np.where(LABELS == 0, np.resize([0, 1, 2, 0, 0], len(LABELS)), 0).astype(np.int8)
    ones, twos = np.flatnonzero(skips == 1), np.flatnonzero(skips == 2)
    keep = min(len(ones), len(twos))
    skips[ones[keep:]] = skips[twos[keep:]] = 0
    schedule = SkipSchedule(skips)
    plan = planned(0, BalancedSampling(LABELS), schedule)
    assert len(plan.order) == schedule.kept(0).sum() == len(LABELS) - keep
    assert schedule.kept(0)[plan.order].all()
    assert np.ptp(np.bincount(LABELS[plan.order])) <= 1


@pytest.mark.usefixtures("small_blocks")
def test_the_stream_is_the_same_from_disk_and_another_than_without(tmp_path):
    plain = noise(57, 3)
    data = dataclasses.replace(plain, sampling=BalancedSampling(plain.labels))
    spec = dataclasses.replace(spec_of(data), sampling="balanced")
    assert spec.fingerprint != spec_of(plain).fingerprint
    assert stream_spec(data, STANDARD, 0).sampling == "balanced"
    assert stream_spec(plain, STANDARD, 0).sampling == ""
    write_stream(spec, data, tmp_path, 2)
    for start in (0, 57):
        online, stored = (
            each.rows(start, start + 57) for each in (OnlineStream(spec, data), PrecomputedStream(spec, tmp_path, None))
        )
        for one, other in zip(online, stored, strict=True):
            np.testing.assert_array_equal(one, other)
        assert np.bincount(online[1]).tolist() == [19, 19, 19]


def test_images_keep_their_labels():
    """Images that show their class: each comes with it."""
    pixels = np.broadcast_to(LABELS[:, None, None, None].astype(np.uint8) * 40, (len(LABELS), 9, 11, 1)).copy()
    data = ImageData("shown", pixels, LABELS, ("a", "b", "c"), "0" * 64, sampling=BalancedSampling(LABELS))
    spec = dataclasses.replace(stream_spec(data, STANDARD, 0), policy=type(STANDARD)())
    images, labels = OnlineStream(spec, data).rows(0, 2 * len(LABELS))
    np.testing.assert_array_equal(images[:, 4, 5, 0], 40 * labels)
