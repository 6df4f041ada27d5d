"""Augmentations that others add: as a file of the package, or from their own code by `augment.extra`."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from harness import STANDARD, noise, spec_of

from fastconv.data.augment.plan import augment, plan_epoch
from fastconv.data.augment.policy import Policy
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.writer import write_stream
from fastconv.system.errors import InputError

FILL = np.zeros(3, np.uint8)
INVERT = """
class Invert:
    def __init__(self, probability=1.0):
        self.probability = probability

    def draw(self, draws):
        return draws.chances(self.probability)

    def apply(self, images, drawn, fill):
        images[drawn] = 255 - images[drawn]


class Wide:
    def draw(self, draws):
        return draws.integers(3)

    def apply(self, images, drawn, fill):
        return images.repeat(2, axis=2)


class Turned:
    def draw(self, draws):
        return draws.integers(3)

    def apply(self, images, drawn, fill):
        turned = images[:, :, ::-1]
        turned.flags.writeable = False
        return turned


class Listed(Turned):
    def apply(self, images, drawn, fill):
        return list(images)


class Table(Invert):
    def __init__(self, colors):
        self.first = colors.pop(0)
        self.name = {255: "white"}[self.first]


class Short(Invert):
    def draw(self, draws):
        return draws.integers(3)[:5]
"""
SOLARIZE = '''
from dataclasses import dataclass
from fastconv.data.augment.transform import transform

@transform("solarize")
@dataclass(frozen=True)
class Solarize:
    """Invert all pixels from a threshold on."""

    probability: float = 0.0
    """Probability that an image is changed."""
    threshold: int = 128
    """The first value that is inverted."""

    def draw(self, draws):
        return draws.chances(self.probability) if self.probability else None

    def apply(self, images, drawn, fill):
        images[drawn] ^= 255 * (images[drawn] >= self.threshold).astype("uint8")
'''
FINGERPRINTS = """
import json, sys
import fastconv.data.augment.transforms as transforms
transforms.__path__ += sys.argv[1:]
import numpy as np
from fastconv.data.augment.policy import *
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import stream_spec

images = (np.arange(6 * 8 * 8 * 3) % 251).astype(np.uint8).reshape(6, 8, 8, 3)
data = ImageData("noise", images, np.arange(6) % 2, ("a", "b"), "d" * 64)
policies = [Policy(), Policy(Crop(2), Flip(0.5), Cutout(3), ColorJitter(0.1))]
policies += [Policy(auto="augmix"), Policy(magnitude=4)]
if sys.argv[1:]:
    from solarize import Solarize
    policies.append(Policy(solarize=Solarize(1.0)))
specs = [stream_spec(data, policy, 3) for policy in policies]
pixels = [spec.compute(data, 0, 0)[0].tolist() for spec in specs if spec.policy.auto == "none"]
print(json.dumps([[spec.fingerprint for spec in specs], pixels]))
"""


def fingerprints(*folders):
    """Fingerprints and pixels of a few streams, by a package that has the files of `folders` too."""
    code = FINGERPRINTS.replace("from solarize", "from fastconv.data.augment.transforms.solarize")
    ended = subprocess.run([sys.executable, "-c", code, *folders], check=True, capture_output=True, text=True)
    return json.loads(ended.stdout)


def test_an_augmentation_is_one_file_and_leaves_all_streams_as_they_were(tmp_path):
    (tmp_path / "solarize.py").write_text(SOLARIZE)
    before, pixels = fingerprints()
    after, more_pixels = fingerprints(str(tmp_path))
    assert (after[:-1], more_pixels[:-1]) == (before, pixels)
    assert after[-1] not in before, "switched on, it is another stream"
    plain, solarized = np.array(more_pixels[0]), np.array(more_pixels[-1])
    np.testing.assert_array_equal(solarized, np.where(plain >= 128, 255 - plain, plain))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module `stranger` with augmentations, outside of fastconv."""
    (tmp_path / "stranger.py").write_text(INVERT)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "stranger.py"
    sys.modules.pop("stranger", None)


def with_extra(*entries):
    return dataclasses.replace(STANDARD, extra=[{"_target_": f"stranger.{name}", **more} for name, more in entries])


def test_a_users_own_augmentation_comes_after_all_others(stranger):
    data = noise(57, 3)
    plain, extra = (plan_epoch(0, 0, 57, 9, 11, policy) for policy in (STANDARD, with_extra(("Invert", {}))))
    before, after = (augment(data.images, plan, 0, 57, FILL) for plan in (plain, extra))
    np.testing.assert_array_equal(after, 255 - before)


def test_a_view_of_the_images_becomes_images(stranger):
    data = noise(57, 3)
    policy = with_extra(("Turned", {}), ("Invert", {}))
    plain, turned = (plan_epoch(0, 0, 57, 9, 11, each) for each in (STANDARD, policy))
    before, after = (augment(data.images, plan, 0, 57, FILL) for plan in (plain, turned))
    np.testing.assert_array_equal(torch.from_numpy(after), 255 - before[:, :, ::-1])


def test_lists_that_an_augmentation_takes_apart_stay_whole(stranger):
    policy = with_extra(("Table", {"colors": [255, 0]}))
    assert [policy.transforms()["stranger.Table"].first for _ in range(2)] == [255, 255]
    assert policy.extra[0]["colors"] == [255, 0]


def test_two_of_one_kind_draw_by_themselves(stranger):
    half = ("Invert", {"probability": 0.5})
    first, second = (step.drawn for step in plan_epoch(0, 0, 500, 9, 11, with_extra(half, half)).steps[-2:])
    assert 0.3 < (first != second).mean() < 0.7


def test_a_users_own_augmentation_is_a_part_of_the_stream(stranger, tmp_path):
    data = noise(57, 3)
    specs = [spec_of(data, with_extra(("Invert", {"probability": share}))) for share in (0.5, 0.6)]
    before = [spec.fingerprint for spec in specs]
    assert len({*before, spec_of(data).fingerprint}) == 3
    write_stream(specs[0], data, tmp_path, 1)
    stored = PrecomputedStream(specs[0], tmp_path, None).rows(0, 57)
    for a, b in zip(OnlineStream(specs[0], data).rows(0, 57), stored, strict=True):
        np.testing.assert_array_equal(a, b)
    content = json.loads((tmp_path / specs[0].folder / "manifest.json").read_text())
    assert content["policy"]["extra"] == [{"_target_": "stranger.Invert", "probability": 0.5}]
    assert len(content["sources"]) == 1
    stranger.write_text(INVERT + "\n# changed\n")
    assert specs[0].fingerprint != before[0], "another source file may be another augmentation"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"_target_": "stranger.Nothing"}, "Nothing"),
        ({"_target_": "nowhere.Invert"}, "nowhere"),
        ({"_target_": "stranger.Invert", "chance": 1}, r"cannot be made of {'chance': 1}: .*unexpected keyword"),
        ({"_target_": "builtins.dict"}, "is no augmentation: it needs methods draw"),
        ({"probability": 0.5}, "names no class"),
        ({"_target_": "stranger.Short"}, "Short.draw must return an array with a row for each of the 57 images"),
        ({"_target_": "stranger.Listed"}, "Listed.apply must return images uint8, 57x9x11x3"),
        ({"_target_": "stranger.Table", "colors": [3]}, r"cannot be made of {'colors': \[3\]}: KeyError: 3"),
        ({"_target_": "stranger.Wide"}, "Wide.apply must return images uint8, 57x9x11x3"),
    ],
)
def test_what_is_no_augmentation_gets_one_line(stranger, entry, says):
    policy = Policy(extra=[entry])
    with pytest.raises(InputError, match=says) as raised:
        augment(noise(57, 3).images, plan_epoch(0, 0, 57, 9, 11, policy), 0, 57, FILL)
    assert "\n" not in str(raised.value)
