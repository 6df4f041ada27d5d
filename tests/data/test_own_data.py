"""A user's own images: whatever they come in, the same arrays; and nothing believed that a file says of itself."""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from harness import OFFICIAL_FOLDERS, png
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from fastconv.config.overrides import compose
from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.sources import folders
from fastconv.data.sources.pixels import to_array
from fastconv.data.stream.spec import stream_spec
from fastconv.system.errors import InputError

NAMES = ("one", "two", "three", "four")


def pictures(count: int = 60, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Real images uint8 [N, size, size, 3] of two classes: parts of scikit-learn's two photographs."""
    china, flower = load_sample_images().images
    generator = np.random.default_rng(0)
    images, labels = [], []
    for at in range(count):
        photograph = (china, flower)[at % 2]
        y, x = generator.integers(0, photograph.shape[0] - size), generator.integers(0, photograph.shape[1] - size)
        images.append(photograph[y : y + size, x : x + size])
        labels.append(at % 2)
    return np.stack(images), np.array(labels)


def as_folder(root: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / NAMES[label] / f"{at:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root


def as_tar(path: Path, images: np.ndarray, labels: np.ndarray, kind: str = "cls") -> Path:
    with tarfile.open(path, "w") as tar:
        for at, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = NAMES[label]
            told = name.encode() if kind == "cls" else json.dumps({"label": name}).encode()
            add(tar, f"{at:05}.png", png(image))
            add(tar, f"{at:05}.{kind}", told)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def as_table(root: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path"])
        for at, (image, label) in enumerate(zip(images, labels, strict=True)):
            (root / f"{at}.png").write_bytes(png(image))
            writer.writerow([NAMES[label], f"{at}.png"])
    return root / "table.csv"


def test_the_same_images_are_the_same_whatever_they_come_in(tmp_path):
    images, labels = pictures()
    as_folder(tmp_path / "folder" / "train", images[:40], labels[:40])
    as_folder(tmp_path / "folder" / "test", images[40:], labels[40:])
    for at, rows in enumerate((slice(0, 15), slice(15, 40))):
        as_tar(tmp_path / f"train-{at:03}.tar", images[rows], labels[rows], ("cls", "json")[at])
    as_tar(tmp_path / "test.tar", images[40:], labels[40:])
    tables = [as_table(tmp_path / name, images[rows], labels[rows])
              for name, rows in (("a", slice(0, 40)), ("b", slice(40, 60)))]  # fmt: skip
    given = [
        Dataset(name="own", source="image_folder", root=str(tmp_path / "folder")),
        Dataset(
            name="own", source="webdataset", train=f"{tmp_path}/train-{{000..001}}.tar", test=f"{tmp_path}/test.tar"
        ),
        Dataset(name="own", source="webdataset", train=f"{tmp_path}/train-*.tar", test=[f"{tmp_path}/test.tar"]),
        Dataset(name="own", source="csv", train=str(tables[0]), test=str(tables[1])),
    ]
    found = [load(each, tmp_path / f"data{at}") for at, each in enumerate(given)]
    assert len({(train.digest, test.digest, train.classes) for train, test in found}) == 1
    train, test = found[0]
    assert train.classes == ("one", "two")
    for split, rows in ((train, slice(0, 40)), (test, slice(40, 60))):
        expected = sorted((labels[at], images[at].tobytes()) for at in range(60)[rows])
        assert [(label, image.tobytes()) for label, image in zip(split.labels, split.images, strict=True)] == expected


def test_images_without_a_test_split_are_split_by_class(tmp_path):
    images, labels = pictures(50)
    given = Dataset(name="own", source="image_folder", root=str(as_folder(tmp_path / "f", images, labels)))
    train, test = load(given, tmp_path / "data")
    assert np.bincount(test.labels).tolist() == [5, 5]
    assert np.bincount(train.labels).tolist() == [20, 20]
    together = sorted(image.tobytes() for split in (train, test) for image in split.images)
    assert together == sorted(image.tobytes() for image in images)
    again, _ = load(Dataset(name="own", source="image_folder", root=given.root, split_seed=1), tmp_path / "data")
    assert again.digest != train.digest


def test_a_changed_folder_is_read_again(tmp_path):
    images, labels = pictures(20)
    given = Dataset(name="own", source="image_folder", root=str(as_folder(tmp_path / "f", images, labels)))
    first, _ = load(given, tmp_path / "data")
    assert load(given, tmp_path / "data")[0].digest == first.digest
    (tmp_path / "f" / "one" / "more.png").write_bytes(png(images[0] // 2))
    assert len(load(given, tmp_path / "data")[0]) == len(first) + 1


def as_bitmaps(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """As an archive leaves them: one size, and one time of modification."""
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / NAMES[label] / f"{at // 2:05}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        os.utime(path, (1e9, 1e9))


def bitmap_table(root: Path, count: int) -> Path:
    path = root / "table.csv"
    lines = [f"{name}/{at:05}.bmp,{name}" for at in range(count // 2) for name in NAMES[:2]]
    path.write_text("path,label\n" + "".join(f"{line}\n" for line in lines))
    return path


def require_labels(given: Dataset, data: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Fail unless a data set has these images with these labels, none left out."""
    wanted = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = [(image.tobytes(), label) for split in load(given, data)
             for image, label in zip(split.images, split.labels, strict=True)]  # fmt: skip
    assert len(found) == len(wanted)
    assert all(wanted[image] == label for image, label in found)


@pytest.mark.parametrize("source", ["image_folder", "csv"])
@pytest.mark.parametrize("change", ["folders exchange their names", "files are written over", "another root"])
def test_files_that_only_look_the_same_are_read_again(tmp_path, monkeypatch, source, change):
    images, labels = pictures(20)
    root, data = tmp_path / "f", tmp_path / "data"
    as_bitmaps(root, images, labels)
    table = bitmap_table(root, 20)
    monkeypatch.chdir(root)
    settings = {"root": "."} if source == "image_folder" else {"train": "table.csv"}
    given = Dataset(name="own", source=source, **settings)
    require_labels(given, data, images, labels)
    require_labels(given, data, images, labels)
    assert len(list((data / "arrays").glob("own-*"))) == 1, "kept arrays are used again"
    if change == "folders exchange their names":
        for old, new in (("one", "aside"), ("two", "one"), ("aside", "two")):
            (root / old).rename(root / new)
    elif change == "files are written over":
        as_bitmaps(root, images, 1 - labels)
    else:
        as_bitmaps(tmp_path / "g", images, 1 - labels)
        (tmp_path / "g" / table.name).write_bytes(table.read_bytes())
        monkeypatch.chdir(tmp_path / "g")
    require_labels(given, data, images, 1 - labels)


@pytest.mark.parametrize("by_content", [True, False])
def test_the_splits_stay_where_only_places_and_dates_change(tmp_path, by_content):
    images, labels = pictures(20)
    as_bitmaps(tmp_path / "f", images, labels)

    def digests(root: str) -> list[str]:
        given = Dataset(name="own", source="image_folder", root=str(tmp_path / root))
        return [split.digest for split in load(given, tmp_path / "data", by_content=by_content)]

    first = digests("f")
    shutil.copytree(tmp_path / "f", tmp_path / "copied")
    assert digests("copied") == first
    (tmp_path / "f").rename(tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*.bmp"):
        path.touch()
    assert digests("moved") == first
    assert len(list((tmp_path / "data" / "arrays").glob("own-*"))) == 3


@pytest.mark.parametrize("change", ["replaced", "written over", "another folder"])
def test_a_tar_that_only_looks_the_same_is_read_again(tmp_path, monkeypatch, change):
    images, labels = pictures(20)
    data, there = tmp_path / "data", tmp_path / "there"
    there.mkdir()
    tars = [as_tar(there / "a.tar", images, labels), as_tar(there / "b.tar", images, 1 - labels)]
    assert tars[0].stat().st_size == tars[1].stat().st_size
    for path in tars:
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(there)
    given = Dataset(name="own", source="webdataset", train="a.tar")
    require_labels(given, data, images, labels)
    if change == "replaced":
        tars[1].replace(tars[0])
    elif change == "written over":
        tars[0].write_bytes(tars[1].read_bytes())
        os.utime(tars[0], (1e9, 1e9))
    else:
        (tmp_path / "else").mkdir()
        tars[1].replace(tmp_path / "else" / "a.tar")
        monkeypatch.chdir(tmp_path / "else")
    require_labels(given, data, images, 1 - labels)


def test_modes_become_what_is_seen():
    colour = np.asarray(load_sample_images().images[0][100:132, 200:232])
    image = Image.fromarray(colour)
    np.testing.assert_array_equal(to_array(image, 32, grey=False), colour)
    turned = image.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a right angle to be seen upright
    buffer = io.BytesIO()
    turned.save(buffer, "png", exif=exif)
    np.testing.assert_array_equal(to_array(Image.open(buffer), 32, grey=False), colour)
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:16] = 0
    clear = to_array(Image.fromarray(np.dstack([colour, alpha])), 32, grey=False)
    assert (clear[:16] == 255).all()
    np.testing.assert_array_equal(clear[16:], colour[16:])
    grey = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    np.testing.assert_array_equal(to_array(Image.fromarray(grey), 32, grey=True)[..., 0], grey // 256)
    palette = image.quantize(256)
    np.testing.assert_array_equal(to_array(palette, 32, grey=False), np.asarray(palette.convert("RGB")))
    ink = image.convert("CMYK")
    np.testing.assert_array_equal(to_array(ink, 32, grey=False), np.asarray(ink.convert("RGB")))
    wide = to_array(image.resize((64, 32)), 32, grey=False)
    np.testing.assert_array_equal(wide, np.asarray(image.resize((64, 32)))[:, 16:48])


def test_grey_images_stay_grey_and_the_size_is_theirs(tmp_path):
    digits = load_digits()
    root = tmp_path / "f"
    for at in range(40):
        folder = root / str(digits.target[at])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[at] * 15).astype(np.uint8)).resize((30 + at % 3, 40)).save(folder / f"{at}.png")
    train, _ = load(Dataset(name="own", source="image_folder", root=str(root), test_share=0.3), tmp_path / "data")
    assert train.images.shape[1:] == (31, 31, 1)
    assert train.classes == tuple("0123456789")
    small, _ = load(
        Dataset(name="own", source="image_folder", root=str(root), test_share=0.3, image_size=16), tmp_path / "data"
    )
    assert small.images.shape[1:] == (16, 16, 1)


def broken(root: Path) -> list[str]:
    """Files that are no images, each in its own way."""
    whole = png(pictures(2)[0][0])
    made = {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "cut.png": whole[: len(whole) // 2],
        "zeros.webp": bytes(500),
    }
    for name, content in made.items():
        (root / name).write_bytes(content)
    os.symlink(root / "nowhere.png", root / "link.png")
    return [*made, "link.png"]


def test_unreadable_images_are_left_out_and_said(tmp_path, command):
    images, labels = pictures(60)
    root = as_folder(tmp_path / "f", images, labels)
    count = len(broken(root / "two"))
    small = ("model=airbench", "model.widths=[4,8,8]", "batch_size=16", "micro_batch_size=16", "schedule.max_epochs=1")
    given = ("dataset=image_folder", f"dataset.root={root}", "dataset.name=photos", "budget.seconds=null", *small)
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    assert f"{count} of {60 + count} images cannot be read" in ended.out
    assert "photos: 48 training images 32x32x3, 2 classes" in ended.out
    ended = command("train", *given, "dataset.strict=true")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert f"{count} of {60 + count} images cannot be read" in ended.err


OF_MACHINE = {
    "files": (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), f"{os.strerror(errno.EMFILE)}.*try again"),
    "network": (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), f"{os.strerror(errno.ESTALE)}.*try again"),
    "memory": (MemoryError(), "there is no memory left"),
}


@pytest.mark.parametrize(("error", "line"), OF_MACHINE.values(), ids=OF_MACHINE)
@pytest.mark.parametrize("reading", [1, 2], ids=["its header", "the whole"])
def test_an_error_of_the_machine_leaves_no_image_out(tmp_path, monkeypatch, error, line, reading):
    """Neither now nor later: decoded images are kept."""
    given = Dataset(name="own", source="image_folder", root=str(as_folder(tmp_path / "f", *pictures(20))))
    whole, readings = folders._content, itertools.count(1)

    def failing(path: str) -> bytes:
        if path.endswith("00003.png") and next(readings) == reading:
            raise error
        return whole(path)

    monkeypatch.setattr(folders, "_content", failing)
    with pytest.raises(InputError, match=f"cannot read two/00003.png: {line}"):
        load(given, tmp_path / "data")
    assert sum(map(len, load(given, tmp_path / "data"))) == 20


BAD = {
    "dataset.root": (("dataset=image_folder",), "dataset.root is not set"),
    "no folder": (("dataset=image_folder", "dataset.root=nowhere"), "is no folder"),
    "no classes": (("dataset=image_folder", "dataset.root=flat"), "has no folders of classes"),
    "no images": (("dataset=image_folder", "dataset.root=bare"), "has no images"),
    "bomb": (("dataset=image_folder", "dataset.root=bombs", "dataset.strict=true"), "million pixels"),
    "escape": (("dataset=webdataset", "dataset.train=escape.tar"), "leads out of it"),
    "absolute": (("dataset=webdataset", "dataset.train=absolute.tar"), "leads out of it"),
    "negative": (("dataset=webdataset", "dataset.train=negative.tar"), "has the label -1"),
    "no label": (("dataset=webdataset", "dataset.train=unlabelled.tar"), "has no label"),
    "no tar": (("dataset=webdataset", "dataset.train=missing-*.tar"), "matches no file"),
    "braces": (
        ("dataset=webdataset", 'dataset.train="x-{000.."'),
        "dataset.train=x-{000.. has braces that are not in pairs",
    ),
    "not a tar": (("dataset=webdataset", "dataset.train=text.tar"), "cannot read text.tar"),
    "missing files": (
        ("dataset=csv", "dataset.train=missing.csv"),
        "names 2 files that are not there, such as a.png (line 2)",
    ),
    "short row": (("dataset=csv", "dataset.train=short.csv"), "short.csv, line 3: expected a path and a label"),
    "no column": (("dataset=csv", "dataset.train=column.csv"), "has no column label"),
    "no table": (("dataset=csv", "dataset.train=no.csv"), "is no file"),
    "unknown": (("dataset=torchvision", "dataset.name=CIFAR11"), "did you mean CIFAR10"),
}


@pytest.fixture
def bad_data(tmp_path):
    images, _ = pictures(4)
    (tmp_path / "flat").mkdir()
    for name in ("bare/a", "bare/b", "bombs/a", "bombs/b"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("a", "b"):
        (tmp_path / "bombs" / folder / "fine.png").write_bytes(png(images[0]))
    head = bytearray(png(images[0]))
    head[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, without the pixels
    import zlib

    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    (tmp_path / "bombs" / "b" / "bomb.png").write_bytes(bytes(head))
    for name, entry, label in (
        ("escape", "../x", b"0"),
        ("absolute", "/x", b"0"),
        ("negative", "x", b"-1"),
        ("unlabelled", "x", None),
    ):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for at, each in enumerate((b"1", label, b"2")):
                add(tar, f"{entry}{at}.png", png(images[at]))
                if label is not None:
                    add(tar, f"{entry}{at}.cls", each)
    (tmp_path / "text.tar").write_text("text")
    (tmp_path / "missing.csv").write_text("path,label\na.png,x\nb.png,y\n")
    (tmp_path / "short.csv").write_text("path,label\nmissing.csv,x\nb.png\n")
    (tmp_path / "column.csv").write_text("path,kind\na.png,x\n")
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_line(bad_data, command, case):
    overrides, line = BAD[case]
    before = sorted(bad_data.rglob("*"))
    ended = command("train", *overrides)
    assert ended.code == 1
    assert ended.err.startswith("fastconv: ")
    assert ended.err.count("\n") == 1, ended.err
    assert line in ended.err
    assert sorted(bad_data.rglob("*")) == before, "nothing is written"


def test_links_in_a_circle_end(tmp_path):
    images, labels = pictures(20)
    root = as_folder(tmp_path / "f", images, labels)
    os.symlink(root / "one", root / "one" / "again")
    train, test = load(Dataset(name="own", source="image_folder", root=str(root)), tmp_path / "data")
    assert len(train) + len(test) == 20


def test_torchvision_gives_what_a_folder_gives(tmp_path, monkeypatch):
    import torchvision

    images, labels = pictures(40)

    class Photos:
        classes = ("one", "two")

        def __init__(self, root, train=True, download=False):
            rows = slice(0, 30) if train else slice(30, 40)
            self.images, self.targets = images[rows], labels[rows].tolist()

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, at):
            return Image.fromarray(self.images[at]), self.targets[at]

    monkeypatch.setattr(torchvision.datasets, "Photos", Photos, raising=False)
    monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, "Photos"))
    as_folder(tmp_path / "f" / "train", images[:30], labels[:30])
    as_folder(tmp_path / "f" / "val", images[30:], labels[30:])
    one = load(Dataset(name="Photos", source="torchvision"), tmp_path / "a")
    two = load(Dataset(name="own", source="image_folder", root=str(tmp_path / "f")), tmp_path / "b")
    assert [split.digest for split in one] == [split.digest for split in two]
    assert one[0].classes == two[0].classes


def test_ranges_of_tars_pass_hydras_grammar():
    for text, expected in {
        "dataset.train=train-*.tar": "train-*.tar",
        'dataset.train="https://example.org/train-{000..010}.tar"': "https://example.org/train-{000..010}.tar",
        "dataset.train=[a.tar,b.tar]": ["a.tar", "b.tar"],
    }.items():
        assert compose("train", ["dataset=webdataset", text]).dataset.train == expected


def test_many_classes_need_no_setting(tmp_path, command):
    """A hundred classes of real images: parts of photographs, a class for each place."""
    china, flower = load_sample_images().images
    for label in range(102):
        photograph = (china, flower)[label % 2]
        y, x = 30 * (label // 2 // 10), 50 * (label // 2 % 10)
        folder = tmp_path / "places" / f"place {label}"
        folder.mkdir(parents=True)
        for at in range(6):
            Image.fromarray(photograph[y + at : y + at + 32, x + 2 * at : x + 2 * at + 32]).save(folder / f"{at}.png")
    small = ("model=airbench", "model.widths=[4,8,8]", "batch_size=64", "micro_batch_size=64", "schedule.max_epochs=2")
    given = ("dataset=image_folder", f"dataset.root={tmp_path}/places", "budget.seconds=null", *small)
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    assert "102 classes" in ended.out
    run = next((tmp_path / "outputs" / "places").iterdir())
    ended = command("evaluate", f"run={run}")
    assert "Top-5 accuracy" in ended.out
    assert 0 <= json.loads((run / "evaluation.json").read_text())["top_5_accuracy"] <= 1


@pytest.mark.slow
def test_cifar10_is_the_same_stream_from_everywhere(official, tmp_path):
    """All 60,000 images as a folder of pngs, as tars and through torchvision: the same stream, by its sha256."""
    root = official("cifar10")
    splits = dict(zip(("train", "test"), load("cifar10", root), strict=True))
    classes = splits["train"].classes
    for part, split in splits.items():
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for at, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
                name, content = classes[label], png(np.asarray(image))
                path = tmp_path / "folder" / part / name / f"{at:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                add(tar, f"{at:05}.png", content)
                add(tar, f"{at:05}.cls", name.encode())
    given = (
        ("dataset=image_folder", f"dataset.root={tmp_path}/folder"),
        ("dataset=webdataset", f"dataset.train={tmp_path}/train.tar", f"dataset.test={tmp_path}/test.tar"),
        ("dataset=torchvision",),
    )
    streams, tests = set(), set()
    for at, settings in enumerate(given):
        (tmp_path / f"data{at}").mkdir()
        os.symlink(root / OFFICIAL_FOLDERS["cifar10"], tmp_path / f"data{at}" / OFFICIAL_FOLDERS["cifar10"])
        config = OmegaConf.to_object(compose("train", [*settings, "dataset.name=CIFAR10", "augment=standard"]))
        train, test = load(config.dataset, tmp_path / f"data{at}")
        assert (len(train), len(test)) == (50_000, 10_000)
        streams.add(stream_spec(train, config.augment, config.stream.seed).folder)
        tests.add(test.digest)
    assert (len(streams), len(tests)) == (1, 1)
