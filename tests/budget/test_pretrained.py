"""The trial of a pretrained network: what it measures, when it pays, and the settings that it leads to."""

import dataclasses
import math
import re
import time
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from fastconv.budget.autotune import choose, pretrained
from fastconv.budget.autotune.flip_test import FlipAccuracy
from fastconv.budget.autotune.linear_probe import LinearProbe, linear_probe, probe_features
from fastconv.budget.autotune.pretrained import consider, pays
from fastconv.budget.autotune.settings import AUTOTUNE
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.config.validation import check
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.models.configs import Pretrained
from fastconv.optim import AdamW

CPU = Device("cpu", "a processor", "fp32", threads=1, keep_memory=False, compile=False)
LIGHT = "mobilenet_v3_small"
GIVEN = ["experiment=best", "dataset=image_folder", "dataset.root=photos", "trainer=cpu", "budget.seconds=1000"]


def scratch(plain: float, flipped: float = 0.0, images: int = 1000) -> FlipAccuracy:
    return FlipAccuracy(plain, flipped, images, round(images * (plain - flipped)), 0)


def photos(count: int, side: int = 32, shuffled: bool = False) -> ImageData:
    """Images of two classes that differ in their colour, or in nothing."""
    draw = np.random.default_rng(count)
    labels = np.arange(count) % 2
    images = draw.integers(0, 80, (count, side, side, 3), np.uint8)
    images[..., 0] += (np.where(labels, 150, 0) * (not shuffled)).astype(np.uint8)[:, None, None]
    return ImageData("photos", images, labels, ("blue", "red"), digest=f"{count}{side}{shuffled}",
                     hashes=np.arange(count, dtype=np.uint64))  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    with torch.random.fork_rng():
        torch.manual_seed(11)
        torch.save(torchvision.models.get_model(LIGHT).state_dict(), path)
    return path


def test_the_linear_classifier_is_ridge_regression():
    draw = np.random.default_rng(0)
    for count, width in ((30, 8), (12, 40)):
        features, others = draw.normal(2, 3, (count, width)), draw.normal(2, 3, (7, width))
        labels = draw.integers(0, 3, count)
        scaler = StandardScaler().fit(features)
        scaled = scaler.transform(features) * math.sqrt((count - 1) / count)  # by n - 1, as torch divides
        penalty = 0.7 * (scaled**2).sum(1).mean()
        oracle = Ridge(alpha=penalty).fit(scaled, np.eye(3)[labels])
        expected = oracle.predict(scaler.transform(others) * math.sqrt((count - 1) / count))
        found = linear_probe(torch.tensor(features), torch.tensor(labels), 3, torch.tensor(others), 0.7)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("accuracy", "images", "plain", "expected"),
    [
        (0.74, 500, 0.30, True),  # a few photographs
        (0.90, 500, 0.97, False),  # MNIST
        (0.60, 500, 0.30, False),  # more than half of the errors
        (0.66, 500, 0.30, True),
        (1.00, 8, 0.90, False),  # by chance
    ],
)
def test_it_pays_with_half_of_the_errors_beyond_chance(accuracy, images, plain, expected):
    assert pays(LinearProbe(accuracy, images, 1000, 0.01, 3.0), scratch(plain)) == expected


def test_the_trial_measures_held_out_images(file):
    model, state = Pretrained(backbone=LIGHT, mode="head"), torch.load(file, weights_only=True)
    before = torch.get_rng_state()
    found = probe_features(photos(160), model, state, CPU, math.inf)
    assert found.accuracy > 0.95
    assert (found.learned, found.images) == (120, 40)
    assert found.seconds > 160 * found.image_seconds > 0
    chance = probe_features(photos(160, shuffled=True), model, state, CPU, math.inf)
    assert 0.2 < chance.accuracy < 0.8
    assert torch.equal(before, torch.get_rng_state())
    # Held-out images have no part in what is fitted: one batch of 24 and 8, of which the time allows no second.
    short = probe_features(photos(160), model, state, CPU, time.perf_counter())
    assert (short.learned, short.images) == (24, 8)
    many = dataclasses.replace(photos(160), classes=tuple(map(str, range(13))))
    assert probe_features(many, model, state, CPU, time.perf_counter()) is None


class Case:
    """The decision for some images, with a given accuracy of a network from scratch."""

    def __init__(self, file, cache):
        self._file, self._cache = file, cache

    def __call__(self, plain=0.2, flipped=0.2, train=None, *overrides, weights=True):
        given = [*GIVEN, f"pretrained.backbone={LIGHT}", *overrides]
        given += [f"pretrained.weights={self._file}"] if weights else []
        config = OmegaConf.to_object(compose("train", given))
        train = train or photos(160)
        data = Splits(train, train.take(np.arange(0)), train.take(np.arange(10)))
        names = choose.left_open(config, given)
        flips = lambda seconds: scratch(plain, flipped)  # noqa: E731
        return consider(config, names, given, data, CPU, self._cache, flips)


@pytest.fixture
def measure(file, tmp_path):
    """The decision by a trial that is made."""
    return Case(file, tmp_path)


@pytest.fixture
def decide(file, tmp_path, monkeypatch):
    """The decision by a trial with a given result."""
    probe = dataclasses.asdict(LinearProbe(0.99, 40, 120, image_seconds=0.01, seconds=3.0))
    monkeypatch.setattr(pretrained, "_tried", lambda *_: {"name": f"{LIGHT} mine.pth", "probe": probe})
    return Case(file, tmp_path)


def test_a_pretrained_network_is_taken_with_its_settings(measure, file):
    found = measure()
    config = found.config
    assert (config.model.name, config.model.backbone, config.model.weights) == ("pretrained", LIGHT, str(file))
    assert config.model.mode == "finetune"
    assert isinstance(config.optimizer, AdamW)
    check(config)  # as a resumed run does
    own = OmegaConf.to_object(
        compose("train", ["experiment=pretrained", "dataset=image_folder", "dataset.root=photos"])
    )
    same = ("optimizer", "schedule", "augment", "batch_size", "micro_batch_size", "label_smoothing")
    assert [getattr(config, key) for key in same] == [getattr(own, key) for key in same]
    assert (config.experiment, config.budget.seconds, config.dataset.image_size) == ("best", 1000, None)
    assert found.reason.startswith(f"a linear classifier on the features of {LIGHT} mine.pth classifies ")
    told = r"of 40 held-out training images correctly \(fitted to 120, in \d+\.\d s\), a network from scratch 20\.0%"
    assert re.search(told, found.reason)


def test_what_the_command_line_sets_stays(decide):
    config = decide(0.2, 0.2, None, "augment=none", "batch_size=16", "label_smoothing=0.3").config
    assert (config.batch_size, config.micro_batch_size, config.label_smoothing) == (16, 16, 0.3)
    assert config.augment.flip.probability == 0


@pytest.mark.parametrize(("flipped", "expected"), [(0.39, 0.5), (0.05, 0.0)])
def test_it_flips_what_the_flip_test_says(decide, flipped, expected):
    config = decide(0.4, flipped).config
    assert config.augment.flip.probability == config.dataset.flip == expected
    assert decide(0.4, flipped, None, "dataset.flip=0.25").config.augment.flip.probability == 0.25


def test_few_epochs_are_for_the_head(decide, monkeypatch):
    slow = dataclasses.asdict(LinearProbe(0.99, 40, 120, image_seconds=1.0, seconds=3.0))
    monkeypatch.setattr(pretrained, "_tried", lambda *_: {"name": "it", "probe": slow})
    assert decide().config.model.mode == "head"  # (1000 - 10) s are two epochs of 160 images, 3 s each


def test_a_batch_has_no_more_images_than_there_are(decide):
    config = decide(train=photos(50)).config
    assert (config.batch_size, config.micro_batch_size) == (50, 50)


@pytest.mark.parametrize(
    ("overrides", "train", "reason"),
    [
        (["pretrained.trial=never"], None, None),
        (["model=davidnet"], None, None),
        ([], dataclasses.replace(photos(160), hashes=None), None),  # a data set that is known by name
        (["optimizer.max_lr=0.1"], None, "from scratch, as optimizer.max_lr is set"),
        (["budget.seconds=99"], None, "from scratch, as the budget is too short for a trial"),
        ([], photos(160, side=23), "from scratch, as images are small"),
    ],
)
def test_where_nothing_is_tried(decide, monkeypatch, overrides, train, reason):
    monkeypatch.setattr(pretrained, "_tried", lambda *_: pytest.fail("it was tried"))
    found = decide(0.2, 0.2, train, *overrides)
    assert found.config is None
    assert found.seconds == 0
    assert (found.reason or "").startswith(reason or "")
    assert bool(found.reason) == bool(reason)


def test_from_scratch_where_that_does_as_well(decide):
    found = decide(0.98)
    assert found.config is None
    assert found.reason.startswith(f"from scratch: a linear classifier on the features of {LIGHT} mine.pth classifies ")
    assert found.seconds == AUTOTUNE.pretrained_share * 1000


def test_a_kept_trial_is_not_made_again(measure, monkeypatch):
    first = measure()
    monkeypatch.setattr(pretrained, "probe_features", lambda *_: pytest.fail("it was made again"))
    assert measure() == first
    with pytest.raises(pytest.fail.Exception):
        measure(train=photos(150))


def test_seconds_of_another_machine_are_not_taken(measure, monkeypatch):
    first = measure()
    monkeypatch.setattr("fastconv.budget.bounds.platform.node", lambda: "another")
    probe = LinearProbe(0.99, 40, 120, image_seconds=1.0, seconds=3.0)
    monkeypatch.setattr(pretrained, "probe_features", lambda *_: probe)
    assert (first.config.model.mode, measure().config.model.mode) == ("finetune", "head")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (AssertionError("Wrong image height! Expected 224 but got 32!"), "AssertionError: Wrong image height!"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_network_that_fails_on_the_images_is_not_taken(measure, monkeypatch, error, why):
    """With an assertion torchvision's vision transformers refuse images of other sizes than 224."""
    network = torchvision.models.MobileNetV3
    monkeypatch.setattr(network, "forward", lambda *_: (_ for _ in ()).throw(error))
    found = measure()
    assert found.config is None
    assert found.reason.startswith(f"from scratch, as {LIGHT} fails on images of 32 pixels ({why}")


def test_without_weights_it_trains_from_scratch(measure, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    found = measure(weights=False)
    assert found.config is None
    assert found.reason.startswith(f"from scratch, as the weights of {LIGHT} cannot be fetched")
    assert f"at {tmp_path / 'checkpoints'}" in found.reason


def test_a_given_file_must_fit(measure, tmp_path):
    from fastconv.system.errors import InputError

    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    measure._file = tmp_path / "other.pth"
    with pytest.raises(InputError, match=r"pretrained\.weights=.*other\.pth does not have the weights of"):
        measure()
