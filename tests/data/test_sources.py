"""Sources: the official images with their known statistics, and nothing read that is not what it claims to be."""

import functools
import gzip
import hashlib
import pickle
import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from harness import QuietFolder, noise, served
from sklearn.datasets import load_digits

from fastconv.data.dataset import mean_and_std
from fastconv.data.loading import load
from fastconv.data.sources import builtin as sources
from fastconv.data.sources.base import builtin_sets
from fastconv.data.splits import stratified_split
from fastconv.system.errors import InputError
from fastconv.system.files import locked, try_lock

# Mean and standard deviation of the training images: as torchvision's examples and the data sets' users give them.
KNOWN = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def idx_files(folder, images=40):
    """Write a small data set in MNIST's format; return the sha256 of each file."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    sums = {}
    for split, count in (("train", images), ("t10k", images // 2)):
        pixels = generator.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, content in (
            (f"{split}-images-idx3-ubyte", struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()),
            (f"{split}-labels-idx1-ubyte", struct.pack(">II", 0x801, count) + labels.tobytes()),
        ):
            (folder / name).write_bytes(content)
            sums[name] = hashlib.sha256(content).hexdigest()
    return sums


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A data folder with 40 + 20 images in the place of MNIST."""
    for name, digest in idx_files(tmp_path / "MNIST" / "raw").items():
        monkeypatch.setitem(sources.IDX_SHA256, f"MNIST/raw/{name}", digest)
    return tmp_path


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A data folder with one batch of 30 images in the place of each of CIFAR-10's."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    sums = {}
    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    for name in [*names, "batches.meta"]:
        content = {"data": generator.integers(0, 256, (30, 3072), np.uint8), "labels": list(range(10)) * 3}
        if name == "batches.meta":
            content = {"label_names": list("abcdefghij")}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names[:-1]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[-1], sums[names[-1]]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", KNOWN)
def test_official_statistics(official, name):
    train, test = load(name, official(name))
    mean, std = mean_and_std(train.images)
    np.testing.assert_allclose((mean, std), KNOWN[name], atol=6e-5)
    assert (len(train), len(test)) == {"cifar10": (50_000, 10_000)}.get(name, (60_000, 10_000))
    assert np.bincount(test.labels).tolist() == {"mnist": MNIST_TEST_COUNTS}.get(name, [1000] * 10)
    assert train.images.dtype == np.uint8
    assert isinstance(train.images, np.memmap)


# Test images of each digit (LeCun's files).
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_official_pixels_are_torchvisions(official):
    from torchvision.datasets import CIFAR10

    root = official("cifar10")
    train, _ = load("cifar10", root)
    expected = CIFAR10(root)
    for row in (0, 1, 49_999):
        image, label = expected[row]
        np.testing.assert_array_equal(train.images[row], np.asarray(image))
        assert train.labels[row] == label
    assert train.classes[expected[0][1]] == "frog"


def test_digits_are_all_there_split_by_class(digits_root):
    train, test = load("digits", digits_root)
    bunch = load_digits()
    assert len(train) + len(test) == 1797
    assert abs(np.bincount(test.labels) / np.bincount(bunch.target) - 0.2).max() < 0.01
    together = np.concatenate([train.images, test.images])[..., 0]
    expected = np.round(bunch.images / 16 * 255).astype(np.uint8)
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in expected)


def test_statistics_equal_numpys(images):
    scaled = images.images.astype(np.float64) / 255
    mean, std = mean_and_std(images.images)
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)


def test_holdout_is_stratified_and_disjoint():
    data = noise(300, 1)
    kept, held = stratified_split(data, 0.2, seed=1)
    assert sorted([*kept, *held]) == list(range(300))
    for label in range(3):
        assert (data.labels[held] == label).sum() == round(0.2 * (data.labels == label).sum())
    assert (stratified_split(data, 0.2, seed=1)[1] == held).all()
    assert set(stratified_split(data, 0.2, seed=2)[1]) != set(held)
    assert len(stratified_split(data, 0.0, seed=1)[1]) == 0


def test_decoded_once_then_mapped(small_mnist, monkeypatch):
    train, test = load("mnist", small_mnist)
    assert train.images.shape == (40, 28, 28, 1)
    stored = (small_mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert test.images.tobytes() == stored, "row after row"
    assert test.labels.tolist() == list(range(10)) * 2
    monkeypatch.setitem(builtin_sets(), "mnist", None)  # a second decode would call it
    again, _ = load("mnist", small_mnist)
    np.testing.assert_array_equal(again.images, train.images)
    assert again.digest == train.digest


@pytest.mark.parametrize("harm", ["cut off", "no bytes", "other format", "no meta"])
def test_broken_arrays_are_decoded_again(small_mnist, harm):
    train, _ = load("mnist", small_mnist)
    folder = small_mnist / "arrays" / "mnist"
    expected = np.array(train.images)
    if harm == "cut off":
        (folder / "train-images.npy").write_bytes((folder / "train-images.npy").read_bytes()[:-100])
    elif harm == "no bytes":  # as a machine that lost its power may leave a file
        (folder / "test-labels.npy").write_bytes(b"")
    elif harm == "other format":
        (folder / "meta.json").write_text('{"format": 99}')
    else:
        (folder / "meta.json").unlink()
    np.testing.assert_array_equal(load("mnist", small_mnist)[0].images, expected)
    assert [path.name for path in folder.parent.glob("[!.]*")] == ["mnist"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    folders = [tmp_path / "arrays" / f"digits{end}.part" for end in (".0123456789ab", ".small-0123.0123456789ab")]
    for folder in folders:
        folder.mkdir(parents=True)
    with locked(tmp_path / "arrays", "digits.small-0123.write"):  # by the process that writes there
        load("digits", tmp_path)
    assert [folder.exists() for folder in folders] == [False, True]


def test_cifar10_is_read_colour_after_colour_and_batch_after_batch(small_cifar10):
    train, test = load("cifar10", small_cifar10)
    assert train.images.shape == (150, 32, 32, 3)
    for name, split, start in (("data_batch_2", train, 30), ("test_batch", test, 0)):
        stored = pickle.loads((small_cifar10 / "cifar-10-batches-py" / name).read_bytes())
        pixels = stored["data"].reshape(30, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(split.images[start : start + 30], pixels)
        assert split.labels[start : start + 30].tolist() == stored["labels"]
    assert train.classes == tuple("abcdefghij")


@pytest.mark.parametrize(("name", "file"), [("small_mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
                                            ("small_cifar10", "cifar-10-batches-py/data_batch_3")])  # fmt: skip
def test_damaged_files_are_refused(request, name, file):
    root = request.getfixturevalue(name)
    content = bytearray((root / file).read_bytes())
    content[-1] ^= 255
    (root / file).write_bytes(content)
    with pytest.raises(InputError, match=f"{file} is damaged.*Delete it") as error:
        load(name.removeprefix("small_"), root)
    assert "\n" not in str(error.value)
    assert not (root / "arrays").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_without_a_network(tmp_path, no_network, name):
    with pytest.raises(InputError, match=r"is missing and .* could not be downloaded.*FASTCONV_DATA"):
        load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_files_are_downloaded(small_mnist, tmp_path_factory, monkeypatch):
    """torchvision fetches, from a server on this machine, and we move in place."""
    from torchvision.datasets import MNIST

    root, site = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("site")
    resources = []
    for file in (small_mnist / "MNIST" / "raw").iterdir():
        packed = site / f"{file.name}.gz"
        packed.write_bytes(gzip.compress(file.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    killed, other, foreign = (root / f".download-MNIST-{at}" for at in (1, 2, 3))
    for folder in (killed, other):
        (folder / "MNIST" / "raw").mkdir(parents=True)
    lock = try_lock(other / ".lock")
    (foreign / ".lock").mkdir(parents=True)  # cannot be locked, as in the folder of another user
    remove = shutil.rmtree

    def remove_as_on_windows(folder, **settings):
        """A file that is open stays."""
        if Path(folder).name.startswith(".download-"):
            if (free := try_lock(Path(folder, ".lock"))) is None:
                return
            free.release()
        remove(folder, **settings)

    monkeypatch.setattr(shutil, "rmtree", remove_as_on_windows)
    with served(functools.partial(QuietFolder, directory=site)) as server:
        monkeypatch.setattr(MNIST, "mirrors", [f"{server.url}/"])
        train, _ = load("mnist", root)
    assert len(train) == 40
    lock.release()
    kept = [other.name, foreign.name, "MNIST", "arrays"]
    assert sorted(path.name for path in root.iterdir()) == kept, "nothing is left but what is not ours"


def test_unreadable_file(small_mnist):
    path = small_mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*train-images-idx3-ubyte: Is a directory"):
        load("mnist", small_mnist)


def test_unwritable_data_folder(tmp_path):
    (tmp_path / "arrays").write_text("a file where a folder must be")
    with pytest.raises(InputError, match=r"cannot write .*arrays/digits"):
        load("digits", tmp_path)
