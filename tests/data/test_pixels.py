"""Images of any depth, size and mode become bytes by one rule for a data set."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastconv.data.configs import Dataset
from fastconv.data.dataset import mean_and_std
from fastconv.data.loading import load
from fastconv.data.sources import pixels
from fastconv.data.sources.formats import ENDINGS, FORMATS, open_image
from fastconv.data.sources.levels import Levels, describe, levels_of, value_range
from fastconv.data.sources.pixels import to_array
from fastconv.system.errors import InputError


def grey(values: np.ndarray, image: Levels | None) -> np.ndarray:
    return to_array(Image.fromarray(values), values.shape[0], True, image)[..., 0]


def rule(*arrays: np.ndarray) -> tuple[Levels, str]:
    ranges = [value_range(Image.fromarray(array)) for array in arrays]
    return levels_of(ranges), "; ".join(describe(ranges))


def test_sixteen_bits_have_one_rule():
    scene = np.random.default_rng(0).random((24, 24))
    dark, bright = (scene * 250).astype(np.uint16), (scene * 4000).astype(np.uint16)
    levels, told = rule(dark, bright)
    assert "divided by 256" in told
    np.testing.assert_array_equal(grey(dark, levels), 0)
    np.testing.assert_array_equal(grey(bright, levels), bright // 256)
    as_bytes, _ = rule(dark)
    np.testing.assert_array_equal(grey(dark, as_bytes), dark)


def test_floats_have_one_rule():
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    levels, told = rule(unit, unit / 10)
    assert "multiplied by 255" in told
    np.testing.assert_array_equal(grey(unit, levels), np.arange(256).reshape(16, 16))
    assert grey(unit / 10, levels).max() == 26  # 25.5, rounded to even
    levels, _ = rule(unit, unit * 200)
    assert grey(unit, levels).max() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_make_an_image_unreadable(tmp_path, value):
    whole = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    gap, nothing = whole.copy(), np.full_like(whole, value)
    gap[0, 3] = value
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for at in range(4):
            Image.fromarray(np.roll(whole, at + 4 * (label == "b"))).save(tmp_path / label / f"{at}.tif")
    for name, image in (("gap", gap), ("nothing", nothing)):
        Image.fromarray(image).save(tmp_path / "a" / f"{name}.tif")
        for levels in (None, Levels()):
            with pytest.raises(InputError, match="has values that are no numbers"):
                grey(image, levels)
    note = load(Dataset(name="own", source="image_folder", root=str(tmp_path)), tmp_path / "data")[0].note
    assert "2 of 10 images cannot be read, such as a/gap.tif (has values that are no numbers" in note
    assert "8 images have floating-point values, from 0 to 1:" in note


def test_negative_values_are_told():
    tissue = np.full((8, 8), -1000, np.int32)
    tissue[0] = 3000
    levels, told = rule(tissue)
    assert "from -1000 to 3000" in told
    assert "negative values become black" in told
    assert grey(tissue, levels)[:, 0].tolist() == [11, *[0] * 7]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV",
                                  "I", "F", "I;16", "I;16B"])  # fmt: skip
def test_every_mode_is_read_in_strips_as_whole(monkeypatch, mode):
    image = Image.new(mode, (20, 30))
    if mode not in ("La", "RGBa", "PA"):
        image.paste(Image.new(mode, (7, 9), 1 if len(image.getbands()) == 1 else (90,) * len(image.getbands())), (3, 4))
    for is_grey in (True, False):
        whole = to_array(image, 16, is_grey)
        assert whole.shape == (16, 16, 1 if is_grey else 3)
        with monkeypatch.context() as patch:
            patch.setattr(pixels, "STRIP_PIXELS", 100)
            np.testing.assert_array_equal(to_array(image, 16, is_grey), whole)


def test_large_images_are_reduced(monkeypatch):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    image = Image.fromarray(np.dstack([ramp, ramp.T, ramp]))
    exact = to_array(image, 16, False).astype(int)
    monkeypatch.setattr(pixels, "REDUCED", 1000)
    monkeypatch.setattr(pixels, "ALONE", 1000)
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        image.save(file, kind)
        assert abs(to_array(open_image(file.getvalue()), 16, False) - exact).max() < 6


def test_formats_are_those_that_are_safe():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "eps")
    with pytest.raises(Exception, match="cannot identify"):
        open_image(file.getvalue())
    Image.init()
    known = Image.registered_extensions()
    listed = {ending: name for name, endings in FORMATS.items() for ending in endings}
    assert all(known.get(ending, name) in (name, "MPO") for ending, name in listed.items())
    assert {ending for ending, name in known.items() if name in FORMATS} <= set(ENDINGS)


def turned_photograph(orientation, tag=b"", form="jpeg"):
    """An image of 32x48 whose EXIF data says how it is turned, and has another tag: 12 bytes, and 8 that it may point
    to."""
    levels = np.zeros((48, 32), np.uint8)
    levels[:24, :16], levels[24:, :16], levels[:24, 16:] = 250, 170, 90
    tags = struct.pack("<HHIHxx", 0x0112, 3, 1, orientation) + tag[:12]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags) // 12) + tags + bytes(4) + tag[12:]
    file = io.BytesIO()
    Image.fromarray(levels).save(file, form, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_pillow_turns_them(orientation):
    content = turned_photograph(orientation, form="png")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    expected = np.asarray(ImageOps.fit(upright, (24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_array(open_image(content), 24, True)[..., 0], expected)


WRONG_TAGS = {
    "a resolution as text": struct.pack("<HHII", 0x011A, 2, 6, 38) + b"72 dpi\0\0",
    "a resolution as bytes": struct.pack("<HHI4s", 0x011A, 7, 4, b"72\0\0"),
    "a negative resolution": struct.pack("<HHIIii", 0x011A, 10, 1, 38, -72, 1),
    "a resolution that is no number": struct.pack("<HHIf", 0x011A, 11, 1, float("nan")),
    "a negative unit": struct.pack("<HHIi", 0x0128, 9, 1, -1),
}


@pytest.mark.parametrize("tag", WRONG_TAGS)
def test_other_tags_of_a_turned_photograph_do_not_matter(tag):
    expected = to_array(open_image(turned_photograph(6)), 24, True)
    assert expected[2, -3, 0] > 240 > 180 > expected[2, 2, 0], "it is turned"
    np.testing.assert_array_equal(to_array(open_image(turned_photograph(6, WRONG_TAGS[tag])), 24, True), expected)


def test_a_damaged_orientation_is_none():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(file, "png", exif=b"Exif\0\0no orientation")
    assert to_array(open_image(file.getvalue()), 8, False).max() == 9


def test_a_constant_channel_is_divided_by_one():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    images[..., 2] = 7
    mean, std = mean_and_std(images)
    assert std[2] == 1
    assert mean[2] == pytest.approx(7 / 255)
    assert std[:2] == pytest.approx((images[..., :2] / 255).reshape(-1, 2).std(0))
