"""Data sets as Python code hands them over in columns: the same images as those of the folder they came from."""

import io
import os
import shutil

import numpy as np
import pandas
import pytest
from harness import png
from PIL import Image

from fastconv.analysis.given_tables import GivenTable, as_table, of_lists
from fastconv.analysis.stored_tables import store_table
from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.system.errors import InputError

NAMES = ("10", "2", "cat")


@pytest.fixture
def folder(tmp_path):
    """45 images of 24x24 in folders train and test, and (images, labels, split) of each."""
    images = np.random.default_rng(0).integers(0, 256, (45, 24, 24, 3), np.uint8)
    labels = [NAMES[at % 3] for at in range(45)]
    splits = ["train" if at < 30 else "test" for at in range(45)]
    paths = []
    for at, (image, label, split) in enumerate(zip(images, labels, splits, strict=True)):
        paths.append(tmp_path / "folder" / split / label / f"{at}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(png(image))
    return images, labels, splits, paths


def loaded(table, root):
    path, known = store_table(table, root / "tables")
    return load(Dataset(name="own", source="csv", train=str(path)), root), path, known


FORMS = {
    "paths": lambda images, paths: list(map(str, paths)),
    "Path": lambda images, paths: paths,
    "bytes": lambda images, paths: [path.read_bytes() for path in paths],
    "images of Pillow": lambda images, paths: list(map(Image.open, paths)),
    "arrays": lambda images, paths: list(images),
    "bytes and paths of Hugging Face": lambda images, paths: [
        {"bytes": png(image), "path": None} if at % 2 else {"bytes": None, "path": str(paths[at])}
        for at, image in enumerate(images)
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_in_any_form_has_the_images_of_the_folder(form, folder, tmp_path):
    images, labels, splits, paths = folder
    expected = load(Dataset(name="own", source="image_folder", root=str(tmp_path / "folder")), tmp_path / "data")
    frame = pandas.DataFrame({"width": 24, "picture": FORMS[form](images, paths), "kind": labels, "split": splits})
    table = as_table(frame, None, "kind")
    (train, test), path, known = loaded(table, tmp_path / "data")
    assert (train.digest, test.digest, train.classes) == (expected[0].digest, expected[1].digest, ("2", "10", "cat"))
    assert "columns that are not used: width" in train.note
    assert not known
    assert (path.parent / "images").is_dir()
    assert len(list((path.parent / "images").iterdir())) == {"paths": 0, "Path": 0}.get(
        form, 22 if "and" in form else 45
    )
    assert store_table(as_table(frame, None, "kind"), tmp_path / "data" / "tables") == (path, True)


def test_the_name_of_the_split_tells_tables_apart(folder, tmp_path):
    images, labels, splits, _ = folder
    sizes = []
    for name in ("is_train", "is_test"):
        told = [split == "train" for split in splits]
        frame = pandas.DataFrame({"image": list(images), "label": labels, name: told})
        (train, test), *_ = loaded(as_table(frame, None, None), tmp_path / "data")
        sizes.append((len(train), len(test)))
    assert sizes == [(30, 15), (15, 30)]


def test_a_list_of_images_and_their_labels_is_a_table(folder):
    images, labels, _, paths = folder
    for given, told in ((paths, labels), (np.array(list(map(str, paths))), np.array(labels))):
        table = of_lists(given, told)
        assert [(row.image, row.label) for row in table.rows][7] == (given[7], labels[7])
    assert of_lists(images, labels) is None
    assert of_lists(list(images), labels) is None


class Feature:
    def __init__(self, kind, **told):
        self._type = kind
        vars(self).update(told)


class FakeDataset:
    """What fastconv needs of a `Dataset` of Hugging Face."""

    def __init__(self, columns, features, name=None):
        self.columns_, self.features, self.info = columns, features, Feature("", dataset_name=name)

    column_names = property(lambda self: list(self.columns_))

    def __len__(self):
        return len(next(iter(self.columns_.values())))

    def __getitem__(self, at):
        return {name: column[at] for name, column in self.columns_.items()}


CLASSES = Feature("ClassLabel", names=list(NAMES))


def fake(images, labels, **more):
    columns = {"img": [Image.fromarray(image) for image in images], "label": [NAMES.index(each) for each in labels]}
    features = {"img": Feature("Image"), "label": CLASSES} | {name: Feature("Value", dtype="int64") for name in more}
    return FakeDataset(columns | more, features, "ann/photos: new")


def test_a_dataset_of_hugging_face_has_the_names_of_its_classes(folder, tmp_path):
    images, labels, *_ = folder
    expected = load(Dataset(name="own", source="image_folder", root=str(tmp_path / "folder")), tmp_path / "data")
    table = as_table(
        {"train": fake(images[:30], labels[:30]), "validation": fake(images[30:], labels[30:])}, None, None
    )
    assert table.name == "photos_ new"
    (train, test), *_ = loaded(table, tmp_path / "data")
    assert (train.digest, test.digest, train.classes) == (expected[0].digest, expected[1].digest, ("2", "10", "cat"))
    whole, *_ = loaded(as_table(fake(images, labels, fold_id=[1] * 45), None, None), tmp_path / "data")
    assert sum(map(len, whole)) == 45
    assert "columns that are not used: fold_id" in whole[0].note


def test_splits_that_are_not_known_are_refused(folder):
    images, labels, *_ = folder
    part = fake(images, labels)
    for names in (("train", "unsupervised"), ("test", "validation")):
        with pytest.raises(InputError, match=f"has the splits {', '.join(names)}: give a dict of train and test"):
            as_table(dict.fromkeys(names, part), None, None)
    assert as_table({"all": part}, None, None).split is None
    two = FakeDataset({**part.columns_, "fine": part.columns_["label"]}, {**part.features, "fine": CLASSES})
    with pytest.raises(
        InputError, match=r'may have the labels \(label, fine\); .* Say fit\(..., label_column="NAME"\)'
    ):
        as_table(two, None, None)
    assert next(iter(as_table(two, None, "fine").rows)).label == "10"


def test_missing_labels_and_turned_images_stay_what_they_are(folder, tmp_path):
    images, labels, *_ = folder
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = io.BytesIO()
    Image.fromarray(images[0]).save(turned, "png", exif=exif)
    told = [None, np.nan, pandas.NA, *labels[3:]]
    frame = pandas.DataFrame({"image": [Image.open(turned), *map(Image.fromarray, images[1:])], "label": told})
    (train, test), *_ = loaded(as_table(frame, None, None), tmp_path / "data")
    assert len(train) + len(test) == 42
    assert "3 of 45 images have no label" in train.note
    frame["label"] = labels
    both = loaded(as_table(frame, None, None), tmp_path / "data")[0]
    pixels = {image.tobytes() for part in both for image in part.images}
    assert images[0][::-1, ::-1].tobytes() in pixels
    assert images[0].tobytes() not in pixels


@pytest.mark.usefixtures("folder")
def test_files_and_classes_whose_names_are_no_utf_8_are_those_of_the_folder(tmp_path):
    root, odd = tmp_path / "odd", os.fsdecode(b"caf\xe9")
    shutil.copytree(tmp_path / "folder" / "train", root)
    (root / "cat").rename(root / odd)
    (root / "2" / "1.png").rename(root / "2" / "1 \n.png")
    expected = load(Dataset(name="own", source="image_folder", root=str(root)), tmp_path / "data")
    files = sorted(root.rglob("*.png"))
    assert len(files) == 30
    table = of_lists(files, [file.parent.name for file in files])
    found, path, _ = loaded(table, tmp_path / "data")
    assert found[0].classes == expected[0].classes == ("2", "10", "caf\\xe9")
    assert [part.digest for part in found] == [part.digest for part in expected]
    assert len(list((path.parent / "images").iterdir())) == 11, "the others are read where they are"


def test_what_cannot_be_stored_leaves_nothing(tmp_path, folder):
    rows = [(b"x", "a"), (np.zeros((4, 4)), "b")]
    frame = pandas.DataFrame(rows, columns=["image", "label"])
    with pytest.raises(InputError, match=r"images are float64 from 0 to 0: give uint8"):
        store_table(as_table(frame, None, None), tmp_path / "tables")
    assert list((tmp_path / "tables").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/tables: Not a directory"):
        store_table(GivenTable("x", [], None, "x"), tmp_path / "file" / "tables")


def test_real_datasets_of_hugging_face_have_the_images_of_the_folder(folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets of Hugging Face need the package datasets")
    images, labels, splits, paths = folder
    expected = load(Dataset(name="own", source="image_folder", root=str(tmp_path / "folder")), tmp_path / "data")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})

    def part(kind, encoded):
        rows = [at for at, split in enumerate(splits) if split == kind]
        cells = [{"bytes": png(images[at]), "path": None} if encoded else str(paths[at]) for at in rows]
        return datasets.Dataset.from_dict({"image": cells, "label": [labels[at] for at in rows]}, features)

    for at, encoded in enumerate((False, True)):
        both = datasets.DatasetDict(train=part("train", encoded), test=part("test", encoded))
        (train, test), *_ = loaded(as_table(both.with_format("torch"), None, None), tmp_path / f"hf{at}")
        assert (train.digest, test.digest, train.classes) == (
            expected[0].digest,
            expected[1].digest,
            ("2", "10", "cat"),
        )
    for name, each in both.items():  # with the bytes of the images in them
        each.to_parquet(tmp_path / f"{name}.parquet")
    given = Dataset(name="own", source="parquet", train=f"{tmp_path}/train.parquet", test=f"{tmp_path}/test.parquet")
    train, test = load(given, tmp_path / "parquet")
    assert (train.digest, test.digest, train.classes) == (expected[0].digest, expected[1].digest, ("2", "10", "cat"))
