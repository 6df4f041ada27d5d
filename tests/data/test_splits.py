"""Splits that follow from the images' content: nothing else moves an image from one side to the other."""

import hashlib

import numpy as np
import pytest
from harness import noise

from fastconv.data.configs import Dataset
from fastconv.data.dataset import ImageData
from fastconv.data.hashes import content_hashes
from fastconv.data.loading import hold_out, load, open_splits
from fastconv.data.splits import content_split, set_aside, stratified_split


def drawn(count: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2**64, count, np.uint64), generator.integers(0, classes, count)


def held_content(hashes, labels, fraction=0.2, seed=0, purpose="test"):
    kept, held = content_split(hashes, labels, fraction, seed, purpose)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    return set(hashes[held].tolist())


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_each_class_gives_its_share(fraction):
    hashes, labels = drawn(1000)
    _, held = content_split(hashes, labels, fraction, 0, "test")
    wanted = [round(fraction * count) for count in np.bincount(labels)]
    assert np.bincount(labels[held]).tolist() == wanted


def test_the_order_does_not_matter_but_seed_and_purpose_do():
    hashes, labels = drawn(300)
    first, order = held_content(hashes, labels), np.random.default_rng(1).permutation(300)
    assert held_content(hashes[order], labels[order]) == first
    assert held_content(hashes, labels, seed=1) != first
    assert held_content(hashes, labels, purpose="holdout") != first


@pytest.mark.parametrize("more", [1, 10, 100])
def test_images_that_come_or_go_move_no_more_than_their_own_number(more):
    hashes, labels = drawn(400)
    new, their = drawn(more, seed=1)
    before = held_content(hashes, labels)
    after = held_content(np.concatenate([new, hashes]), np.concatenate([their, labels]))
    moved = (before ^ after) - set(new.tolist())
    assert len(moved) <= more
    fewer = held_content(hashes[more:], labels[more:])
    assert len((before ^ fewer) - set(hashes[:more].tolist())) <= more


def test_copies_stay_together_even_with_other_labels():
    hashes, labels = drawn(200)
    hashes = np.concatenate([hashes, hashes[:50], hashes[:20], hashes[:20]])
    labels = np.concatenate([labels, labels[:50], labels[:20], (labels[:20] + 1) % 3])
    for seed in range(5):
        kept, held = content_split(hashes, labels, 0.2, seed, "test")
        assert not set(hashes[kept].tolist()) & set(hashes[held].tolist())
        shares = np.bincount(labels[held]) / np.bincount(labels)
        assert (np.abs(shares - 0.2) < 0.06).all(), shares


def test_a_class_of_copies_still_has_test_images():
    hashes, labels = np.repeat(drawn(4)[0], 3), np.array([0] * 6 + [1] * 6)
    _, held = content_split(hashes, labels, 0.2, 0, "test")
    assert np.bincount(labels[held]).tolist() == [3, 3], "the fewest that keep copies together"
    _, held = content_split(np.full(9, 7, np.uint64), np.zeros(9, np.int64), 0.2, 0, "test")
    assert not len(held), "a single image, nine times, is for training"


@pytest.mark.parametrize("seed", range(20))
def test_groups_of_copies_are_taken_in_the_order_of_the_draw_as_long_as_they_fit(seed):
    generator = np.random.default_rng(seed)
    hashes = drawn(25, seed=seed)[0][generator.integers(0, 25, 60)]
    labels = generator.integers(0, 3, 60)

    def place(content: int) -> int:
        text = f"test {seed} ".encode() + content.to_bytes(8, "little")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")

    contents = sorted(set(hashes.tolist()), key=place)
    label_of = {content: labels[hashes == content].min() for content in contents}
    count_of = {content: int((hashes == content).sum()) for content in contents}
    expected = set()
    for label in range(3):
        groups = [content for content in contents if label_of[content] == label]
        wanted = room = round(0.3 * sum(count_of[content] for content in groups))
        for content in groups:
            if count_of[content] <= room:
                expected.add(content)
                room -= count_of[content]
        if wanted == room and wanted and len(groups) > 1:
            expected.add(min(groups, key=count_of.__getitem__))
    assert held_content(hashes, labels, 0.3, seed) == expected


@pytest.mark.parametrize("by_content", [True, False])
def test_the_hashes_beside_the_arrays_are_those_of_their_images(tmp_path, by_content):
    data = noise(60, 3)
    np.savez(tmp_path / "own.npz", images=data.images, labels=data.labels)
    dataset = Dataset(name="own", source="arrays", root=str(tmp_path / "own.npz"))
    for split in load(dataset, tmp_path, by_content=by_content):
        np.testing.assert_array_equal(split.hashes, content_hashes(split.images))


def test_hashes_are_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), np.uint8)
    hashes = content_hashes(images)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 50
    np.testing.assert_array_equal(content_hashes(images[::-1]), hashes[::-1])
    np.testing.assert_array_equal(content_hashes(np.asfortranarray(images)), hashes)


def test_the_built_in_data_sets_are_held_out_by_position(digits_root):
    dataset = Dataset(name="digits", holdout=0.1, holdout_seed=3)
    splits = open_splits(dataset, digits_root)
    everything = open_splits(Dataset(name="digits"), digits_root).train
    kept, held = stratified_split(everything, 0.1, 3)
    np.testing.assert_array_equal(splits.holdout.images, everything.images[held])
    assert splits.train.digest == everything.take(kept).digest
    assert splits.train.hashes is None


def test_images_are_set_aside_evenly_if_there_are_enough():
    data = noise(100, 3)
    train, unseen = set_aside(data, 4)
    assert (len(train), len(unseen)) == (96, 4)
    everything = sorted(image.tobytes() for image in data.images)
    assert sorted(image.tobytes() for part in (train, unseen) for image in part.images) == everything
    np.testing.assert_array_equal(unseen.images, data.images[[0, 33, 66, 99]])
    assert len({data.digest, train.digest, unseen.digest}) == 3
    for count in (0, 5):
        train, unseen = set_aside(data, count)
        assert (train.digest, len(unseen)) == (data.digest, 0)


@pytest.mark.parametrize("fraction", [0.5, 0.6, 0.75, 0.9, 0.99])
def test_no_class_loses_all_its_images(fraction):
    """Of one, two and three images, of two copies of one image, and of three copies and another one."""
    labels = np.repeat(np.arange(6), [1, 2, 3, 2, 4, 40])
    hashes = np.random.default_rng(0).integers(0, 2**64, len(labels), np.uint64)
    hashes[6:8], hashes[8:11] = 5, 6
    data = ImageData("few", noise(len(labels), 1).images, labels, tuple("abcdef"), "0" * 64)
    for seed in range(5):
        for kept, held in (
            content_split(hashes, labels, fraction, seed, "test"),
            stratified_split(data, fraction, seed),
        ):
            assert sorted([*kept, *held]) == list(range(len(labels)))
            assert np.bincount(labels[kept], minlength=6).all()
            assert np.bincount(labels[held])[5] == min(round(fraction * 40), 39)


def test_a_single_image_of_a_class_is_not_set_aside():
    labels = np.array([0, *[1] * 49, *[2] * 49, 3])  # the first and the last row would be
    data = ImageData("few", noise(100, 1).images, labels, tuple("abcd"), "0" * 64)
    train, unseen = set_aside(data, 4)
    assert np.bincount(train.labels).tolist() == [1, 48, 48, 1]
    assert unseen.labels.tolist() == [1, 2]
    train, unseen = set_aside(data, 1)
    assert (train.digest, len(unseen)) == (data.digest, 0)


def test_leaked_images_are_counted():
    import dataclasses

    data = noise(40, 3)
    data = dataclasses.replace(data, hashes=content_hashes(data.images))
    test = data.take(np.array([1, 1, 5]))
    splits = hold_out(Dataset(name="own", source="arrays"), data, test)
    assert splits.leaked == 3
    assert splits.leak == "3 of 3 test images are training images too"
    assert hold_out(Dataset(name="own", source="arrays"), data.take(np.arange(6, 40)), test).leaked == 0
    one = dataclasses.replace(splits, train=data.take(np.arange(5, 40)))
    assert one.leak == "1 of 3 test images is a training image too"
    assert dataclasses.replace(one, train=data.take(np.arange(6, 40))).leak == ""
