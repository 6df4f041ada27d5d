"""Many images: arrays are written in little memory, in one order, and what is found in them does not depend on how."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from fastconv.analysis import duplicates
from fastconv.analysis.duplicates import equal_images
from fastconv.data import hashes
from fastconv.data.array_files import new_arrays, read_arrays
from fastconv.data.configs import Dataset
from fastconv.data.dataset import ImageData, mean_and_std
from fastconv.data.hashes import content_hashes
from fastconv.data.loading import load, open_described, open_source
from fastconv.data.sources import npz, ordering
from fastconv.data.sources.ordering import canonical_order
from fastconv.data.splits import stratified_split
from fastconv.system.files import locked


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("levels", [1, 2, 256])
@pytest.mark.parametrize("compared", [1, 64])
def test_images_are_sorted_by_label_then_pixels_and_equal_ones_stay_in_order(monkeypatch, random, levels, compared):
    monkeypatch.setattr(ordering, "KEYS_BYTES", 1)
    monkeypatch.setattr(ordering, "KEY_BYTES", compared)
    images = random.integers(0, levels, (80, 5, 5, 3)).astype(np.uint8)
    images[:, :2] = 0
    labels = random.integers(0, 3, 80)
    expected = sorted(range(80), key=lambda row: (labels[row], images[row].tobytes()))
    assert canonical_order(images, labels).tolist() == expected


def test_arrays_that_are_written_block_by_block_are_those_of_one_block(monkeypatch, random, tmp_path):
    monkeypatch.setattr(hashes, "BLOCK_BYTES", 100)
    images, labels = random.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8), random.integers(0, 2, 50)
    rows = random.permutation(50)[:40]
    with new_arrays(tmp_path / "set") as writer:
        writer.write("train", images, labels, rows)
        writer.write("test", images, labels)
        writer.finish(["a", "b"])
    train, test = read_arrays("set", tmp_path / "set")
    np.testing.assert_array_equal(train.images, images[rows])
    np.testing.assert_array_equal(train.labels, labels[rows])
    assert train.digest == hashlib.sha256(images[rows].tobytes() + labels[rows].tobytes()).hexdigest()
    assert (np.load(tmp_path / "set" / "test-hashes.npy") == content_hashes(test.images)).all()
    assert content_hashes(images)[3] == int.from_bytes(hashlib.sha256(images[3].tobytes()).digest()[:8], "little")


def test_arrays_that_are_not_finished_leave_nothing(tmp_path):
    """Nor do writers that were killed, also of arrays that nobody needs any more, such as of another size."""
    for name in ("set", "set-of-before", "set.small"):
        (tmp_path / f"{name}.0123456789ab.part").mkdir()
    (tmp_path / "of-the-user.part").mkdir()
    with locked(tmp_path, "set.small.write"), new_arrays(tmp_path / "set") as writer:
        writer.write("train", np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".locks", "of-the-user.part", "set.small.0123456789ab.part"}, "the last one is being written"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("fortran", [False, True])
def test_large_arrays_of_an_npz_are_read_from_a_temporary_file(monkeypatch, random, tmp_path, save, fortran):
    images, labels = random.integers(0, 256, (40, 24, 24, 3)).astype(np.uint8), np.arange(40) % 2
    save(tmp_path / "set.npz", images=np.asfortranarray(images) if fortran else images, labels=labels)
    dataset = Dataset(name="set", source="arrays", root=str(tmp_path / "set.npz"))
    small = load(dataset, tmp_path / "small")
    monkeypatch.setattr(npz, "LARGE_BYTES", 100)
    large = load(dataset, tmp_path / "large")
    assert [each.digest for each in large] == [each.digest for each in small]
    assert sorted(image.tobytes() for each in large for image in each.images) == sorted(map(bytes, images))


def test_names_stay_with_their_images(random, tmp_path):
    images = random.integers(0, 256, (30, 24, 24, 3)).astype(np.uint8)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for at, image in enumerate(images):
            for ending, content in (("ppm", b"P6 24 24 255\n" + image.tobytes()), ("cls", b"%d" % (at % 3))):
                member = tarfile.TarInfo(f"{at}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    dataset = Dataset(name="set", source="webdataset", train=str(tmp_path / "set.tar"))
    load(dataset, tmp_path)
    (folder,) = (tmp_path / "arrays").glob("set-*")
    (folder / "images.json").unlink()  # earlier versions did not write it
    opened = open_described(dataset, tmp_path, open_source(dataset, tmp_path))
    for split in (opened.train, opened.test):
        for name, image, label in zip(split.names, split.images, split.labels, strict=True):
            at = int(name.rpartition(" ")[2])
            np.testing.assert_array_equal(image, images[at])
            assert label == at % 3
    assert opened.sizes.tolist() == [[24, 24]] * 30
    assert sorted(path.name for path in (tmp_path / "arrays").glob("[!.]*")) == [folder.name]


def test_equal_images_are_found_in_and_across_splits(random, monkeypatch):
    images = random.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    images[[7, 12]], images[15] = images[3], images[2]
    found = [[(0, 2), (1, 5)], [(0, 3), (0, 7), (1, 2)]]
    splits = [images[:10], images[10:]]
    assert equal_images(splits, [None, None]) == found
    monkeypatch.setattr(duplicates, "content_hashes", lambda _: pytest.fail("they are known"))
    assert equal_images(splits, [content_hashes(each) for each in splits]) == found
    assert equal_images(splits, [np.zeros(len(each), np.uint64) for each in splits]) == found, "pixels decide"


def test_a_split_of_thousands_of_classes_draws_each_class_by_itself(random):
    labels = random.permutation(np.repeat(np.arange(5000), 6))
    data = ImageData("set", np.zeros((30_000, 1, 1, 1), np.uint8), labels, tuple(map(str, range(5000))), "")
    kept, held = stratified_split(data, 0.3, seed=1)
    assert (np.bincount(labels[held]) == 2).all()
    assert sorted([*kept, *held]) == list(range(30_000))


def test_mean_and_deviation_are_those_of_the_pixels(random):
    images = random.integers(0, 256, (7, 5, 3, 3)).astype(np.uint8)
    mean, deviation = mean_and_std(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(deviation, images.std((0, 1, 2)) / 255)
