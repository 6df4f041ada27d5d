"""Arrays of images and labels as MedMNIST, Keras and others store them; or one line."""

import io
import warnings
import zipfile

import numpy as np
import pytest

from fastconv.data.configs import Dataset
from fastconv.data.loading import load, open_source
from fastconv.data.sources import npz
from fastconv.system.errors import InputError

COUNT = 12
# Images of one level each, and their labels.
X = np.repeat(np.arange(COUNT, dtype=np.uint8), 20 * 20).reshape(COUNT, 20, 20)
Y = np.arange(COUNT) % 2
COLOUR = np.stack([X] * 3, 3)


def found(folder, **arrays):
    """(classes, {level of an image to train on: its class}, the same of the test split, notes) of a .npz."""
    np.savez(folder / "own.npz", **arrays)
    source = open_source(Dataset(name="own", source="arrays", root=str(folder / "own.npz")), folder)
    each = source.find()
    return each.classes, *(levels(part, each.classes) for part in (each.train, each.test or [])), source.notes


def levels(samples, classes):
    return {np.asarray(sample.read()).flat[0].item(): classes[sample.label] for sample in samples}


TRUE = {at: str(at % 2) for at in range(COUNT)}
TRAIN, TEST = slice(0, 8), slice(8, 12)
READ = {
    "images, labels": {"images": X, "labels": Y},
    "one column": {"images": X, "labels": Y[:, None].astype(np.uint8)},
    "one-hot": {"images": X, "labels": np.eye(2, dtype=np.float32)[Y]},
    "truth": {"images": X, "labels": np.eye(2, dtype=bool)[Y]},
    "X, y": {"X": COLOUR, "y": Y},
    "data, target": {"data": X, "target": Y},
    "Fortran order": {"images": np.asfortranarray(X), "labels": Y},
    "the other byte order": {"images": X.astype(">i4"), "labels": Y.astype(">i8")},
    "int64": {"images": X.astype(np.int64), "labels": Y},
    "channels first": {"images": COLOUR.transpose(0, 3, 1, 2), "labels": Y},
    "one channel first": {"images": X[:, None], "labels": Y},
    "bytes": {"images": X, "labels": Y.astype("S1")},
    "another order in memory": {"images": np.asfortranarray(COLOUR), "labels": Y},
}


@pytest.mark.parametrize("case", READ)
def test_arrays_as_people_have_them(tmp_path, case):
    assert found(tmp_path, **READ[case]) == (("0", "1"), TRUE, {}, ())


@pytest.mark.parametrize(
    "names",
    [
        "train_images train_labels test_images test_labels",
        "train_images train_labels val_images val_labels",
        "x_train y_train x_test y_test",
        "X_train Y_train X_test Y_test",
        "trainX trainY testX testY",
        "xtrain ytrain xtest ytest",
        "train_data train_targets test_data test_targets",
        "images labels test_images test_labels",
    ],
)
def test_splits_as_people_name_them(tmp_path, names):
    x, y, x_test, y_test = names.split()
    _, train, test, notes = found(tmp_path, **{x: X[TRAIN], y: Y[TRAIN], x_test: X[TEST], y_test: Y[TEST, None]})
    assert train == {at: label for at, label in TRUE.items() if at < 8}
    assert test == {at: label for at, label in TRUE.items() if at >= 8}
    assert notes == ()


def test_a_third_split_and_other_arrays_are_named(tmp_path):
    more = {"val_images": X[TEST], "val_labels": Y[TEST], "test_images": X[TEST], "test_labels": Y[TEST], "weights": Y}
    *_, notes = found(tmp_path, train_images=X, train_labels=Y, **more)
    assert notes == (f"{tmp_path}/own.npz has arrays that are not used: val_images, val_labels, weights",)


def test_missing_labels_are_left_out_and_counted(tmp_path):
    labels = Y.astype(float)
    labels[3] = np.nan
    classes, train, _, _ = found(tmp_path, images=X, labels=labels)
    assert classes == ("0.0", "1.0")
    assert sorted(train) == [at for at in range(COUNT) if at != 3]
    given = Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz")
    assert load(given, tmp_path / "data")[0].note == "left out: 1 of 12 images has no label, such as image 3"


OBJECTS = np.empty(COUNT, object)
OBJECTS[:] = [{"a": 1}] * COUNT
REFUSED = {
    "other names": ({"arr_0": X, "arr_1": Y}, "has the arrays arr_0, arr_1: images and labels .*x_train.* are wanted"),
    "only test": ({"x_test": X, "y_test": Y}, "has the arrays x_test, y_test: .* are wanted"),
    "test without labels": ({"images": X, "labels": Y, "test_images": X}, "has test_images, but no labels for it"),
    "fewer labels": ({"images": X, "labels": Y[:5]}, "as many labels as images: they are 5 and 12x20x20"),
    "floats": ({"images": X / 255, "labels": Y}, "images of float64, 12x20x20, from 0 to 0.04.*: give uint8 from 0"),
    "no numbers": ({"images": np.where(X > 10, np.nan, X), "labels": Y}, "with NaN in 1 image: give uint8"),
    "16 bits": ({"images": X.astype(np.uint16) * 256, "labels": Y}, "of uint16, 12x20x20, from 0 to 2816: give uint8"),
    "signed": ({"images": X.astype(int) - 5, "labels": Y}, "from -5 to 6: give uint8"),
    "0 and 1": ({"images": X.astype(int) % 2, "labels": Y}, "images of int64, 12x20x20, from 0 to 1: give uint8"),
    "truth": ({"images": X % 2 == 1, "labels": Y}, "images of bool, 12x20x20: give uint8"),
    "infinite": ({"images": X, "labels": np.where(np.arange(COUNT) == 3, np.inf, Y)}, "label inf beside numbers"),
    "flat": ({"images": X.reshape(COUNT, -1), "labels": Y}, "images of uint8, 12x400: give uint8, N x H x W"),
    "two channels": ({"images": COLOUR[..., :2], "labels": Y}, "12x20x20x2: give uint8, N x H x W"),
    "nothing": ({"images": X[:0], "labels": Y[:0]}, "0x20x20: there is no pixel"),
    "several labels": ({"images": X, "labels": np.ones((COUNT, 2))}, "labels of float64, 12x2, whose rows do not"),
    "deep labels": ({"images": X, "labels": np.zeros((COUNT, 2, 2))}, "labels of float64, 12x2x2: give N labels"),
    "objects": ({"images": X, "labels": OBJECTS}, "labels of Python objects, which are never unpickled"),
    "minus one": ({"images": X, "labels": np.arange(COUNT) % 3 - 1}, "label -1 beside other numbers"),
    "joined labels": ({"images": X, "labels": np.array(["a", "b", "a|b"] * 4)}, "the label a\\|b, which is several in"),
    "one class": ({"images": X, "labels": Y * 0}, "single label, 0"),
    "one image": ({"images": X[0], "labels": Y}, "as many labels as images: they are 12 and 20x20"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_cannot_be_read_are_one_line(tmp_path, case):
    arrays, line = REFUSED[case]
    with pytest.raises(InputError, match=line) as error:
        found(tmp_path, **arrays)
    assert "\n" not in str(error.value)


def test_objects_that_are_not_needed_do_no_harm(tmp_path):
    *_, notes = found(tmp_path, images=X, labels=Y, about=OBJECTS)
    assert "about" in notes[0]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_another_file_is_one_line(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*own.npz: give a .npz that has arrays images and labels"):
        open_source(Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz"), tmp_path)
    np.save(tmp_path / "own.npy", X)
    with pytest.raises(InputError, match=r"own.npy is a single array: give a .npz"):
        open_source(Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npy"), tmp_path)


def npy(descr, shape, content, fortran_order=False):
    """The bytes of an array that says of itself what it likes."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


LABELS = npy("<i8", (COUNT,), Y.astype("<i8").tobytes())
HOSTILE = {
    "zeros without end": (npy("|u1", (COUNT, 1024, 1024), bytes(COUNT * 2**20)), LABELS, "images .*fill the memory"),
    "a million of them": (npy("|u1", (10**6, 1, 1), bytes(10**6)), npy("|u1", (10**6,), bytes(10**6)), "fill the mem"),
    "one-hot without end": (npy("|u1", X.shape, X.tobytes()), npy("|u1", (COUNT, 10**6), bytes(COUNT * 10**6)), "fill"),
    "a huge image": (npy("|u1", (COUNT, 10**6, 10**6), X.tobytes()), LABELS, "more than 268 million pixels"),
    "more than there is": (npy("|u1", (COUNT, 20, 21), X.tobytes()), LABELS, "damaged: images .* has 4,800 bytes"),
    "less than there is": (npy("|u1", (COUNT, 20, 19), X.tobytes()), LABELS, "damaged: images .* has 4,800 bytes"),
    "a count of labels": (npy("|u1", X.shape, X.tobytes()), npy("<i8", (10**12,), b""), "as many labels as images"),
    "less than none": (npy("|u1", (-COUNT, 20, 20), X.tobytes()), LABELS, "as many labels as images"),
    "less than nothing": (npy("|u1", (-COUNT, 20, 20), b""), npy("|u1", (-COUNT,), b""), "damaged"),
    "a header without end": (b"\x93NUMPY\2\0" + b"\xff" * 4 + b" " * 10**6, LABELS, "its header has 4,294,967,295 b"),
    "fields": (npy([("a", "|u1")], X.shape, X.tobytes()), LABELS, "give uint8"),
    "no array": (b"text", LABELS, r"cannot read images.npy of .*magic string"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_array_is_not_what_it_says(tmp_path, monkeypatch, name):
    monkeypatch.setattr(npz, "FREE_BYTES", 2**20)
    images, labels, says = HOSTILE[name]
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", images)
        file.writestr("labels.npy", labels)
    with pytest.raises(InputError, match=says) as error:
        load(Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz"), tmp_path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(("place", "value", "says"), [(0, 1, "it is encrypted"), (2, 9, "compression method")])
def test_members_that_cannot_be_unpacked_are_named(tmp_path, place, value, says):
    """Encrypted, and packed by deflate64, as Windows does with large files."""
    np.savez_compressed(tmp_path / "own.npz", images=X, labels=Y)
    content = bytearray((tmp_path / "own.npz").read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        begin = content.find(signature)
        content[begin + at + place : begin + at + place + 2] = value.to_bytes(2, "little")
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read images.npy of .*own.npz \(.*{says}"):
        load(Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz"), tmp_path)


def test_one_name_for_two_arrays_and_an_array_for_each_image_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MOST_ARRAYS", 3)
    given = Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz")
    for names, says in ((("images", "labels", "images"), "images twice"), ("abcd", "has 4 arrays")):
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "own.npz", "w") as file:
            for name in names:
                file.writestr(f"{name}.npy", LABELS)
        with pytest.raises(InputError, match=says):
            load(given, tmp_path)


def test_images_are_the_same_bytes(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 24, 24, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=images.transpose(0, 3, 1, 2).astype(np.int32), labels=Y)
    each = open_source(Dataset(name="own", source="arrays", root=f"{tmp_path}/own.npz"), tmp_path).find()
    read = [sample.read() for sample in each.train]
    assert all(np.asarray(image).dtype == np.uint8 for image in read)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in read]), images)
