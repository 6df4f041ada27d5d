"""Images from a function of the user's own: `dataset._target_`."""

import sys

import numpy as np
import pytest

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.system.errors import InputError

PHOTOS = """
import numpy as np
from fastconv.data.sources.base import Found, Source
from fastconv.data.sources.decode import Sample
from PIL import Image

calls = []


def photos(count=20, dtype="uint8", classes=("cat", "dog"), highest=1):
    calls.append(count)
    images = (np.arange(count * 8 * 8 * 3) % 251).astype(dtype).reshape(count, 8, 8, 3)
    labels = np.arange(count) % 2 * highest
    return images, labels, images[:6], labels[:6], list(classes)


def found(classes=("a", "b"), count=20):
    def find():
        image = lambda grey: lambda: Image.new("L", (8, 8), grey)
        return Found.of(classes, [[Sample(f"{at}", at % 2, image(at)) for at in range(count)]])
    return Source(["one"], find)


def broken():
    return 1 / 0


def nothing():
    return None


def ragged():
    return [[1], [1, 2]], [0, 1], [[1]], [0], ["a", "b"]


def nameless():
    return (*photos()[:4], None)
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module `stranger_photos`, outside of fastconv."""
    (tmp_path / "stranger_photos.py").write_text(PHOTOS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "stranger_photos.py"
    sys.modules.pop("stranger_photos", None)


def own(name, **arguments):
    return Dataset(name="photos", _target_=f"stranger_photos.{name}", arguments=arguments)


def test_a_function_gives_the_images_once(stranger, tmp_path):
    import stranger_photos

    train, test = load(own("photos", count=30), tmp_path)
    assert (train.images.shape, len(test), train.classes) == ((30, 8, 8, 3), 6, ("cat", "dog"))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    again, _ = load(own("photos", count=30), tmp_path)
    assert again.digest == train.digest
    assert stranger_photos.calls == [30], "the second time they are on the disk"
    load(own("photos", count=31), tmp_path)
    stranger.write_text(PHOTOS + "\n# changed\n")
    load(own("photos", count=30), tmp_path)
    assert stranger_photos.calls == [30, 31, 30], "other arguments and another source file are asked again"


def test_a_function_may_return_a_source(stranger, tmp_path):
    dataset = own("found")
    dataset.image_size = 8
    train, test = load(dataset, tmp_path)
    assert (len(train) + len(test), train.classes, train.images.shape[1:]) == (20, ("a", "b"), (8, 8, 1))


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("photos", {"dtype": "float32"}, "train images must be uint8, N x H x W x 1 or 3, and are float32, 20x8x8x3"),
        ("photos", {"classes": ["cat"]}, "two or more classes, there are 1"),
        ("photos", {"classes": ["cat", "cat"]}, "several classes called cat: give each a name of its own"),
        ("photos", {"classes": ["caf\u00e9", "cafe\u0301"]}, "several classes called caf\u00e9"),
        ("found", {"classes": ["cat", "cat"]}, "photos has several classes called cat: give each a name of its own"),
        ("found", {"count": 0}, "photos has no images: there is nothing to learn"),
        ("photos", {"highest": 2}, r"train labels must lie in \[0, 2\), and go from 0 to 2"),
        ("photos", {"size": 2}, "failed: TypeError: .*unexpected keyword argument 'size'"),
        ("nothing", {}, "must return"),
        ("ragged", {}, "returned values that do not make arrays and a list of names: .* inhomogeneous"),
        ("nameless", {}, "returned values that do not make arrays and a list of names: .* not iterable"),
        ("broken", {}, "failed: ZeroDivisionError"),
        ("absent", {}, "absent"),
    ],
)
def test_what_gives_no_images_gets_one_line(stranger, tmp_path, name, arguments, says):
    with pytest.raises(InputError, match=says) as raised:
        load(own(name, **arguments), tmp_path)
    assert "\n" not in str(raised.value)
