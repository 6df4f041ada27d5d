"""Images in every form in which Python code hands them over: the same pixels, or one line."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastconv.analysis.attribution.samples import read_files
from fastconv.analysis.given_images import pixels_of, sequence_of
from fastconv.analysis.prediction_files import decoded_batches
from fastconv.config.schema import Config
from fastconv.data.image_rows import ImageRows
from fastconv.data.sources.tar_samples import image_members
from fastconv.data.sources.walk import PassedOver
from fastconv.system.errors import InputError

SHAPES = {"grey": (8, 8, 1), "colour": (8, 8, 3)}
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), np.uint8)


def taken(given, shape):
    found = sequence_of(given, shape)
    return np.stack([pixels_of(image, shape, at) for at, image in enumerate(found)]) if len(found) else found


def png(image, path=None):
    file = io.BytesIO() if path is None else path
    Image.fromarray(np.squeeze(image)).save(file, "png")
    if path is None:
        file.seek(0)
    return file


MANY = {
    "array": lambda images: images,
    "channels first": lambda images: images.transpose(0, 3, 1, 2),
    "tensor": torch.from_numpy,
    "tensor, channels first": lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
    "list of arrays": list,
    "tuple of tensors, channels first": lambda images: tuple(torch.from_numpy(images).permute(0, 3, 1, 2)),
    "list without the axis of one channel": lambda images: [np.squeeze(image) for image in images],
    "images of Pillow": lambda images: [Image.fromarray(np.squeeze(image)) for image in images],
    "generator": lambda images: (image for image in images),
    "array of objects": lambda images: np.array([png(image) for image in images], dtype=object),
    "open files": lambda images: [png(image) for image in images],
    "not contiguous": lambda images: np.asfortranarray(images),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("form", MANY)
def test_many_images_in_any_form_are_the_same(form, kind):
    images = GREY if kind == "grey" else COLOUR
    np.testing.assert_array_equal(taken(MANY[form](images), SHAPES[kind]), images)


ONE = {
    "array": lambda image, path: image,
    "without the axis of one channel": lambda image, path: np.squeeze(image),
    "channels first": lambda image, path: image.transpose(2, 0, 1) if image.shape[2] == 1 else image,
    "tensor": lambda image, path: torch.from_numpy(image),
    "image of Pillow": lambda image, path: Image.fromarray(np.squeeze(image)),
    "path": png,
    "path as text": lambda image, path: str(png(image, path)),
    "list of a path": lambda image, path: [png(image, path)],
    "array of a path": lambda image, path: np.array(str(png(image, path))),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("form", ONE)
def test_one_image_gives_one_answer(form, kind, tmp_path):
    image = (GREY if kind == "grey" else COLOUR)[0]
    np.testing.assert_array_equal(taken(ONE[form](image, tmp_path / "a.png"), SHAPES[kind]), image[None])


def test_grey_images_of_a_colour_network_and_the_reverse():
    np.testing.assert_array_equal(taken(GREY[..., 0], SHAPES["colour"]), GREY.repeat(3, axis=3))
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in COLOUR])
    np.testing.assert_array_equal(taken(COLOUR, SHAPES["grey"])[..., 0], expected)
    np.testing.assert_array_equal(taken(GREY[:3, ..., 0], SHAPES["grey"]), GREY[:3])  # not one image of three channels
    opaque = np.concatenate([COLOUR, np.full((5, 8, 8, 1), 255, np.uint8)], axis=3)
    np.testing.assert_array_equal(taken(opaque, SHAPES["colour"]), COLOUR)


def test_narrow_grey_images_are_those_of_a_narrow_network():
    narrow = np.arange(5 * 6 * 6, dtype=np.uint8).reshape(5, 6, 6)
    for channels in (1, 3):
        np.testing.assert_array_equal(taken(narrow, (6, 6, channels))[..., 0], narrow)


def test_images_of_several_sizes():
    mixed = [COLOUR[0], np.zeros((20, 30, 3), np.uint8), Image.new("L", (9, 9)), np.zeros((16, 8), np.uint8)]
    assert taken(mixed, SHAPES["colour"]).shape == (4, 8, 8, 3)


def test_large_images_that_are_read_by_rows_are_images():
    """As the test images of a data set that has changed since the run (`choose_rows`)."""
    found = sequence_of(ImageRows([COLOUR[:2], COLOUR[2:]], np.array([3, 0])), SHAPES["colour"])
    np.testing.assert_array_equal(found[0:2], COLOUR[[3, 0]])
    assert len(sequence_of(ImageRows([COLOUR], np.array([], np.int64)), SHAPES["colour"])) == 0


def test_images_of_a_network_that_is_not_square_stay_whole(tmp_path):
    """As those of a user's own function may be: on every way to such a network."""
    wide = np.random.default_rng(2).integers(0, 256, (4, 8, 12, 3), np.uint8)
    files = [tmp_path / f"{at}.png" for at in range(4)]
    for image, file in zip(wide, files, strict=True):
        png(image, file)
    for given in (list(wide), files, list(map(Image.open, files))):
        np.testing.assert_array_equal(taken(given, (8, 12, 3)), wide)
    np.testing.assert_array_equal(read_files(list(map(str, files)), (8, 12, 3)).images, wide)
    run = SimpleNamespace(folder=tmp_path / "run", config=Config(), levels=None, resize="crop")
    predictor = SimpleNamespace(run=run, shape=(8, 12, 3), on_cpu=True)
    passed = PassedOver(tmp_path / "predictions.csv")
    (batch,) = decoded_batches(predictor, [str(tmp_path)], passed)
    np.testing.assert_array_equal(batch.images, wide)


@pytest.mark.parametrize("none", [[], (), np.empty((0, 8, 8, 3), np.uint8), np.empty(0), torch.empty(0), iter(())])
def test_no_images_give_no_answers(none):
    assert len(sequence_of(none, SHAPES["colour"])) == 0


BAD = {
    "float in 0..1": ((COLOUR / 255).astype(np.float32), r"float32 from 0 to 1: .*\(255 \* images\)"),
    "float in 0..255": (COLOUR.astype(np.float64), r"float64 from 0 to 255: .* images.round\(\)"),
    "normalised": ((COLOUR / 100 - 1).astype(np.float32), "as they were before they were normalised"),
    "not a number": (np.full((1, 8, 8, 3), np.nan), "float64 from nan to nan: give uint8"),
    "16 bits": (COLOUR.astype(np.uint16) * 257, "uint16 from 0 to 65535: .*// 257"),
    "int64": (COLOUR.astype(np.int64), r"int64 from 0 to 255: .* images.round\(\)"),
    "bool": (COLOUR > 100, "bool from 0 to 1"),
    "tensor of floats": (torch.from_numpy(COLOUR[:2] / 255).float(), "float32 from 0 to 1"),
    "bfloat16": (torch.rand(2, 3, 8, 8).bfloat16(), "bfloat16"),
    "complex": (np.zeros((1, 8, 8, 3), complex), "complex128"),
    "list of floats": ([COLOUR[0] / 255], "float64 from 0"),
    "three channels or three images": (np.zeros((3, 8, 8), np.uint8), "3x8x8: this may be one image .* or 3 grey ones"),
    "grey and its opacity": (
        np.zeros((30, 20, 2), np.uint8),
        "30x20x2: this may be one image of 2 channels, or 30 grey",
    ),
    "five channels": (torch.zeros((30, 20, 5), dtype=torch.uint8), "30x20x5: this may be one image of 5 channels"),
    "three rows of five channels": (np.zeros((3, 20, 5), np.uint8), "3x20x5: this may be one image of 5"),
    "five axes": (COLOUR[None], "1x5x8x8x3"),
    "two channels": (COLOUR[..., :2], "5x8x8x2"),
    "one axis": (COLOUR.reshape(-1), "960: give"),
    "a single value": (np.uint8(3), "a single value"),
    "batches in a list": ([COLOUR, COLOUR], "image 0 is 5x8x8x3: give one image"),
    "nested lists": (COLOUR.tolist(), "image 0 is list"),
    "numbers": ([1, 2], "image 0 is int"),
    "None": (None, "images are NoneType"),
    "one None": ([COLOUR[0], None], "image 1 is NoneType"),
    "a number": (7, "images are int"),
    "content of a file": (b"\x89PNG", "images are bytes"),
    "dict": ({"image": COLOUR}, "images are dict"),
    "no such file": ("nowhere.png", "^nowhere.png is not there$"),
    "folder": (str(Path(__file__).parent), "is a folder: give its files, or use python -m fastconv.predict"),
    "no image": (__file__, "cannot be read as an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_one_line(case):
    given, line = BAD[case]
    with pytest.raises(InputError, match=line) as told:
        taken(given, SHAPES["colour"])
    assert "\n" not in str(told.value)


def test_only_regular_files_of_known_formats_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with (tmp_path / "long.png").open("wb") as file:
        file.truncate(2**40)
    for name, line in (("pipe", "a named pipe"), ("page", "not an image"), ("long", "more than 1,024 MiB")):
        with pytest.raises(InputError, match=f"{name}.png cannot be read as an image: .*{line}"):
            taken(tmp_path / f"{name}.png", SHAPES["colour"])


def test_photographs_that_need_pillow_heif_say_so(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"of a phone")
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x18ftypmif1" + bytes(50))
    for path in map(str, sorted(tmp_path.iterdir())):
        for read in (lambda given: taken(given, SHAPES["colour"]), lambda given: read_files([given], SHAPES["colour"])):
            with pytest.raises(InputError, match="cannot be read as an image: Install pillow-heif to read"):
                read(path)
    assert [name for name, _ in image_members(iter([("x/a.heic", b"1"), ("a.txt", b"1")]), "t.tar")] == [
        "t.tar: x/a.heic"
    ]


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to("gone.png")
    with pytest.raises(InputError) as told:
        taken(link, SHAPES["colour"])
    assert str(told.value) == f"{link} is a link to a file that is not there"


def test_an_open_file_is_read_from_its_beginning():
    file = png(COLOUR[0])
    file.read()
    np.testing.assert_array_equal(taken(file, SHAPES["colour"]), COLOUR[:1])
