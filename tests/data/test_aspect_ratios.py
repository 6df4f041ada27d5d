"""Images of any aspect ratio become square in the way that is set, or that their sizes choose, in every source."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import REPOSITORY, png
from omegaconf import OmegaConf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from fastconv.config.overrides import compose
from fastconv.data.augment.policy import Policy
from fastconv.data.configs import RESIZES, Dataset
from fastconv.data.loading import DECODER, load, open_described, open_source
from fastconv.data.sources.aspect_ratios import choose_resize, describe_choice, lose_much
from fastconv.data.sources.pixels import to_array, whole_on_white
from fastconv.data.stream.spec import stream_spec

SIDE = 24
WIDE = (3 * SIDE, SIDE)


def photographs(count: int, size: tuple[int, int] = WIDE) -> list[np.ndarray]:
    """Parts uint8 [H, W, 3] of scikit-learn's two photographs, in turn. `size` is width and height."""
    generator, both = np.random.default_rng(0), load_sample_images().images
    found = []
    for at in range(count):
        top, left = (generator.integers(0, side - own) for side, own in zip(both[0].shape, size[::-1], strict=False))
        found.append(both[at % 2][top : top + size[1], left : left + size[0]])
    return found


def as_folder(root, images):
    for at, image in enumerate(images):
        path = root / "ab"[at % 2] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def own(root, resize="auto", **more) -> Dataset:
    return Dataset(name="own", source="image_folder", root=str(root), resize=resize, **more)


@pytest.mark.parametrize("size", [(90, 30), (31, 47), (200, 199), (40, 1), (1, 300)])
def test_the_ways_are_those_of_pillow(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    width, height = (max(1, round(SIDE * side / max(size))) for side in size)
    whole = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((SIDE - height) / 2), round((SIDE - width) / 2)

    def on_square(colour):
        square = np.broadcast_to(np.array(colour, np.uint8), (SIDE, SIDE, 3)).copy()
        square[top : top + height, left : left + width] = whole
        return square

    expected = {
        "crop": ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC),
        "pad": on_square(np.rint(whole.reshape(-1, 3).mean(0))),
        "squash": image.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
    }
    for resize in RESIZES:
        found = to_array(image, SIDE, False, resize=resize)
        np.testing.assert_array_equal(found, np.asarray(expected[resize]), resize)
        grey = to_array(image, SIDE, True, resize=resize)
        assert grey.shape == (SIDE, SIDE, 1)
    np.testing.assert_array_equal(whole_on_white(image, SIDE, False), on_square([255] * 3))


def test_square_images_are_the_same_in_every_way():
    for side in (SIDE, 10, 77):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
        first, *others = (to_array(image, SIDE, False, resize=resize) for resize in RESIZES)
        assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (48, 32), (50, 33), (24, 16), (1, 300)])
def test_a_height_and_a_width_are_reached_in_the_same_ways(size):
    """Arrays of a user's own function need not be square, and files that are predicted must become like them."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    scale = min(24 / size[0], 16 / size[1])
    width, height = (max(1, round(scale * side)) for side in size)
    whole = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    padded = np.broadcast_to(np.rint(whole.reshape(-1, 3).mean(0)).astype(np.uint8), (16, 24, 3)).copy()
    top, left = round((16 - height) / 2), round((24 - width) / 2)
    padded[top : top + height, left : left + width] = whole
    expected = {
        "crop": ImageOps.fit(image, (24, 16), Image.Resampling.BICUBIC),
        "pad": padded,
        "squash": image.resize((24, 16), Image.Resampling.BICUBIC),
    }
    for resize in RESIZES:
        np.testing.assert_array_equal(to_array(image, (16, 24), False, resize=resize), expected[resize], resize)
    same = np.asarray(image.resize((24, 16)))
    assert all(np.array_equal(to_array(Image.fromarray(same), (16, 24), False, resize=each), same) for each in RESIZES)


def test_a_photograph_is_padded_as_it_is_seen():
    """Turned by its EXIF data, so that the padding is on the left and on the right."""
    upright = Image.fromarray(photographs(1, (30, 60))[0])
    turned = upright.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a right angle to be seen upright
    file = io.BytesIO()
    turned.save(file, "png", exif=exif)
    found = to_array(Image.open(file), SIDE, False, resize="pad")
    np.testing.assert_array_equal(found, to_array(upright, SIDE, False, resize="pad"))
    assert len(np.unique(found[:, : SIDE // 4].reshape(-1, 3), axis=0)) == 1


def test_the_examples_of_an_audit_are_of_all_classes(tmp_path):
    as_folder(tmp_path / "photos", photographs(40))
    dataset = own(tmp_path / "photos", image_size=SIDE)
    opened = open_described(dataset, tmp_path / "data", open_source(dataset, tmp_path))
    assert [name.split("/")[-2] for name, *_ in opened.examples] == ["a"] * 6 + ["b"] * 6


def test_auto_pads_if_more_than_a_tenth_lose_more_than_a_quarter():
    four_to_three, three_to_two, upright, square = [400, 300], [300, 200], [200, 300], [100, 100]
    sizes = np.array([four_to_three, three_to_two, upright, square])
    assert lose_much(sizes).tolist() == [False, True, True, False]
    nine = np.array([four_to_three] * 5 + [square] * 4)
    assert choose_resize(np.concatenate([nine, [three_to_two]])) == "crop"
    assert choose_resize(np.concatenate([nine, [three_to_two, upright]])) == "pad"
    assert choose_resize(np.empty((0, 2), np.int64)) == "crop"
    told = describe_choice(np.concatenate([nine, [three_to_two, upright]]))
    assert told.startswith("dataset.resize=auto chose pad: 2 of 11 training images would lose more than a quarter")
    assert describe_choice(nine).startswith("dataset.resize=auto chose crop: 0 of 9 training images")
    assert describe_choice(nine, has_test=False).startswith("dataset.resize=auto chose crop: 0 of 9 images would")
    assert describe_choice(np.array([square] * 3)) == ""


def test_test_images_choose_nothing(tmp_path):
    as_folder(tmp_path / "f" / "train", photographs(20, (SIDE, SIDE)))
    as_folder(tmp_path / "f" / "test", photographs(20))
    train, test = load(own(tmp_path / "f"), tmp_path / "data")
    assert (train.resize, test.resize, train.note) == ("crop", "crop", "")
    as_folder(tmp_path / "g" / "train", photographs(20))
    as_folder(tmp_path / "g" / "test", photographs(20, (SIDE, SIDE)))
    train, test = load(own(tmp_path / "g"), tmp_path / "data")
    assert (train.resize, test.resize) == ("pad", "pad")
    assert "dataset.resize=auto chose pad: 20 of 20 training images" in train.note


def test_without_a_test_split_all_images_choose(tmp_path):
    as_folder(tmp_path / "f", photographs(20))
    train, _ = load(own(tmp_path / "f"), tmp_path / "data")
    assert len(train) < 20
    assert "dataset.resize=auto chose pad: 20 of 20 images would" in train.note


def test_the_way_decides_the_stream_of_images_that_are_not_square(tmp_path):
    for name, size in (("wide", WIDE), ("square", (SIDE, SIDE))):
        as_folder(tmp_path / name / "train", photographs(20, size))
        as_folder(tmp_path / name / "test", photographs(6, size))
    found = {}
    for name in ("wide", "square"):
        for resize in (*RESIZES, "auto"):
            train, test = load(own(tmp_path / name, resize), tmp_path / "data")
            again, _ = load(own(tmp_path / name, resize), tmp_path / "data")
            assert (train.digest, train.resize) == (again.digest, again.resize)
            spec = stream_spec(train, Policy(), 0)
            found[name, resize] = (spec.fingerprint, train.digest, test.digest)
    assert len({found["wide", resize] for resize in RESIZES}) == 3
    assert found["wide", "auto"] == found["wide", "pad"]
    assert len({found["square", resize] for resize in (*RESIZES, "auto")}) == 1


def test_all_sources_pad_alike(tmp_path):
    images = photographs(30)
    parts = {"train": range(20), "test": range(20, 30)}
    for part, rows in parts.items():
        as_folder(tmp_path / "folder" / part, [images[at] for at in rows])
        lines = ["path,label"]
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for at in rows:
                (tmp_path / f"{at}.png").write_bytes(png(images[at]))
                lines.append(f"{at}.png,{'ab'[at % 2]}")
                for ending, content in (("png", png(images[at])), ("cls", "ab"[at % 2].encode())):
                    entry = tarfile.TarInfo(f"{at:03}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    letters = np.array(["a", "b"] * 15)
    stacked = np.stack(images)
    np.savez(tmp_path / "both.npz", images=stacked[:20], labels=letters[:20], test_images=stacked[20:],
             test_labels=letters[20:])  # fmt: skip
    tables = {part: str(tmp_path / f"{part}.csv") for part in parts}
    tars = {part: str(tmp_path / f"{part}.tar") for part in parts}
    given = [
        own(tmp_path / "folder"),
        Dataset(name="own", source="csv", resize="auto", **tables),
        Dataset(name="own", source="webdataset", resize="auto", **tars),
        Dataset(name="own", source="arrays", resize="auto", root=str(tmp_path / "both.npz")),
    ]
    found = [load(each, tmp_path / "data") for each in given]
    assert {train.resize for train, _ in found} == {"pad"}
    assert len({(train.digest, test.digest) for train, test in found}) == 1
    expected = sorted(to_array(Image.fromarray(image), SIDE, False, resize="pad").tobytes() for image in images[:20])
    assert sorted(image.tobytes() for image in found[0][0].images) == expected


def test_parquet_files_are_padded_too(tmp_path):
    images = photographs(20)
    as_folder(tmp_path / "f" / "train", images[:14])
    as_folder(tmp_path / "f" / "test", images[14:])
    paths = {}
    for part, rows in (("train", range(14)), ("test", range(14, 20))):
        cells, labels = [png(images[at]) for at in rows], ["ab"[at % 2] for at in rows]
        paths[part] = str(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"image": pa.array(cells, pa.binary()), "label": labels}), paths[part])
    given = (own(tmp_path / "f"), Dataset(name="own", source="parquet", resize="auto", **paths))
    found = [load(each, tmp_path / "data") for each in given]
    assert found[1][0].resize == "pad"
    assert len({(train.digest, test.digest) for train, test in found}) == 1


def test_own_images_are_auto_and_shipped_ones_are_not():
    groups = ("image_folder", "csv", "webdataset", "parquet", "arrays", "torchvision", "custom")
    files = [REPOSITORY / "conf" / "dataset" / f"{name}.yaml" for name in groups]
    assert {OmegaConf.load(path).resize for path in files} == {"auto"}
    assert compose("train", ["dataset=image_folder", "dataset.root=f"]).dataset.resize == "auto"
    assert compose("train", ["dataset=digits"]).dataset.resize == "crop"
    assert Dataset(name="own").resize == "crop"


def test_crops_that_earlier_versions_have_read_are_found(tmp_path):
    """The name of the folder that keeps them is made as it was before there was a choice."""
    as_folder(tmp_path / "f", photographs(20))
    dataset, data = own(tmp_path / "f", "crop"), tmp_path / "data"
    load(dataset, data)
    (folder,) = (data / "arrays").glob("own-*")
    about = ["image_folder", open_source(dataset, data).stamp, None, 0.2, 0, False, DECODER, "content"]
    assert folder.name == f"own-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
    assert "resize" not in json.loads((folder / "meta.json").read_text())
