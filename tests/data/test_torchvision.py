"""Data sets of torchvision: each is one that can be learned, or one line."""

import struct

import numpy as np
import pytest
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import open_source
from fastconv.system.errors import InputError


def idx(path, array, kind):
    """Write an array in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape))
    with path.open("ab") as file:
        file.write(array.tobytes())


def found(name, data):
    return open_source(Dataset(name=name, source="torchvision"), data).find()


def test_qmnist_is_its_first_column(tmp_path):
    for split, count in (("train", 6), ("test", 4)):
        labels = np.full((count, 8), 7, ">i4")
        labels[:, 0] = np.arange(count) % 2
        idx(tmp_path / f"QMNIST/raw/qmnist-{split}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8), 8)
        idx(tmp_path / f"QMNIST/raw/qmnist-{split}-labels-idx2-int", labels, 12)
    each = found("QMNIST", tmp_path)
    assert each.classes == ("0 - zero", "1 - one")
    assert [sample.label for sample in each.train] == [0, 1, 0, 1, 0, 1]
    assert [sample.label for sample in each.test] == [0, 1, 0, 1]
    assert "no images of 8 classes of QMNIST are here" in each.notes[0]


def test_emnist_is_balanced_and_upright(tmp_path):
    upright = np.arange(47 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(47, 28, 28)
    for split in ("train", "test"):
        raw = tmp_path / f"EMNIST/raw/emnist-balanced-{split}"
        idx(raw.with_name(f"{raw.name}-images-idx3-ubyte"), np.ascontiguousarray(upright.transpose(0, 2, 1)), 8)
        idx(raw.with_name(f"{raw.name}-labels-idx1-ubyte"), np.arange(47, dtype=np.uint8), 8)
    each = found("EMNIST", tmp_path)
    assert (len(each.classes), len(each.train), len(each.test)) == (47, 47, 47)
    assert each.classes[10] == "A"
    np.testing.assert_array_equal(np.asarray(each.train[5].read()), upright[5])


class Fake:
    """A data set whose labels are in `labels`; subclasses say how it is opened."""

    labels = (0, 1, 0, 1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return Image.new("L", (8, 8), at), self.labels[at]


class Categories(Fake):
    categories = ("crab", "lobster")

    def __init__(self, root, download=False):
        self.y = list(self.labels)


class Cranes(Fake):
    """ImageNet has two cranes too."""

    labels = (0, 1, 2, 0)
    classes = (("crane", "bird"), ("crab",), ("crane", "bird"))

    def __init__(self, root, download=False):
        pass


class Unlabelled(Fake):
    def __init__(self, root, split="train", download=False):
        self.labels = [None] * 4 if split == "test" else [0, 1, 0, 1]


class Boxes(Fake):
    labels = ({"box": 1},) * 4

    def __init__(self, root):
        pass


class OnDisk(Fake):
    def __init__(self, root, download=False):
        if download:
            raise ValueError("no longer available for download")


class Handed(OnDisk):
    def __init__(self, root, **more):
        super().__init__(root, **more)


class Gone(Fake):
    def __init__(self, root, download=False):
        raise RuntimeError("not found\nanywhere.")


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    import torchvision

    for kind in (Categories, Cranes, Unlabelled, Boxes, OnDisk, Handed, Gone):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
    names = [kind.__name__ for kind in (Categories, Cranes, Unlabelled, Boxes, OnDisk, Handed, Gone)]
    monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, *names))


def test_sets_with_other_signatures(tmp_path):
    assert found("Categories", tmp_path).classes == ("crab", "lobster")
    assert found("Cranes", tmp_path).classes == ("crane, bird (0)", "crab", "crane, bird (2)")
    each = found("Unlabelled", tmp_path)
    assert each.test is None
    assert each.notes == ["the test split of Unlabelled has no labels and is not used"]
    for name in ("OnDisk", "Handed"):
        assert len(found(name, tmp_path).train) == 4


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Boxes", "is not for classification: its targets are not class numbers"),
        ("Gone", "cannot open Gone in .*: not found anywhere[.] Put its files there"),
        *[(name, f"torchvision's {name} is not for classification: ")
          for name in ("Kitti", "FakeData", "CocoDetection", "VOCSegmentation", "Flickr8k", "SBU", "UCF101", "Sintel",
                       "CarlaStereo", "CelebA", "LFWPairs", "VisionDataset", "ImageFolder", "MovingMNIST")],
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_one_line(tmp_path, name, line):
    with pytest.raises(InputError, match=line) as error:
        found(name, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_every_set_without_its_files_is_one_line(tmp_path, monkeypatch):
    """No class of torchvision ends in a traceback, whatever its arguments are."""
    import socket

    import torchvision

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in torchvision.datasets.__all__:
        kind = getattr(torchvision.datasets, name)
        if isinstance(kind, type) and not issubclass(kind, Fake):
            with pytest.raises(InputError) as error:
                found(name, tmp_path)
            assert "\n" not in str(error.value), name
