"""The choice on a GPU, on simulated ones: few networks are measured, and the best one is among them."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from fastconv.budget.autotune.choose import choose, left_open
from fastconv.budget.autotune.flip_test import FlipAccuracy, flip_test
from fastconv.budget.autotune.from_largest import fastest_profile
from fastconv.budget.autotune.scaling_law import EXPONENT, size_families
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import SpeedProfiles
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.flops import training_flops
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.data.dataset import ImageData
from fastconv.models.configs import model_settings

GPU = Device("cuda", "a GPU", "bf16", threads=1, keep_memory=False, compile=False)
SHAPE, COUNT, SCORED = (32, 32, 3), 45_000, 10_000
NOISE = ImageData("noise", np.zeros((50, 8, 8, 1), np.uint8), np.arange(50) % 2, ("a", "b"), "0" * 64)
SIZES = [size for family in size_families(32, 3) for size in family]
# Settings that leave nothing but the network and the images that it sees.
PLAIN = ("dataset.flip=0", "batch_size=1000", "tta.flip=false", "tta.shift=0")


@functools.cache
def config(*overrides):
    return OmegaConf.to_object(compose("train", ["experiment=best", "dataset=digits", *overrides]))


@functools.cache
def flop(position):
    return training_flops("airbench", model_settings(SIZES[position].network), SHAPE, 10)


class Gpu:
    """A GPU whose small networks wait for the host. `measured` has the benchmarks that were made."""

    def __init__(self, operations_per_second, host_seconds=0.002, slow=1.0):
        self.operations, self.host_seconds, self.slow, self.measured = operations_per_second, host_seconds, slow, []

    def image_seconds(self, position):
        return max(flop(position) / self.operations, self.host_seconds / 1024)

    def benchmark(self, key, device, cache, repeats=1):
        (position,) = [at for at, size in enumerate(SIZES) if model_settings(size.network) == key.settings]
        seconds = self.slow * self.image_seconds(position)
        self.measured.append(position)
        return SpeedProfile(key.batch_size * seconds, seconds / 3, 100.0, benchmark_seconds=8 * 1024 * seconds)

    def best(self, budget):
        """The size with the least error, if all of them are measured in no time."""
        share = 1 - AUTOTUNE.benchmark_share - AUTOTUNE.flip_test_share
        errors = []
        for position, size in enumerate(SIZES):
            each = self.image_seconds(position)
            images = min((share * budget - SCORED * each / 3) / each, 100 * COUNT)
            errors.append(size.irreducible + math.log1p((size.half_images / max(images, 1)) ** EXPONENT))
        return int(np.argmin(errors))


@pytest.fixture
def chosen(tmp_path):
    images = np.broadcast_to(np.zeros((1, *SHAPE), np.uint8), (COUNT, *SHAPE))
    train = ImageData("pictures", images, np.arange(COUNT) % 10, tuple("abcdefghij"), "0" * 64)

    def chosen(gpu, budget, *overrides, settings=AUTOTUNE):
        given = config(*overrides)
        given = dataclasses.replace(given, budget=dataclasses.replace(given.budget, seconds=budget))
        profiles = SpeedProfiles(given, GPU, train, tmp_path, gpu.benchmark, settings)
        names, product = left_open(given, [*overrides]), 1.2 * gpu.operations
        return choose(given, names, "cuda", train, SCORED, profiles, lambda _: None, settings, operations=product)

    return chosen


@pytest.mark.parametrize("operations", [2e13, 1e14, 4e14])
@pytest.mark.parametrize("budget", [10, 30, 100, 300])
def test_the_network_is_the_best_one(chosen, operations, budget):
    gpu = Gpu(operations)
    network = chosen(gpu, budget, *PLAIN).config.model
    assert network == SIZES[gpu.best(budget)].network
    assert len(gpu.measured) <= 3


def test_a_fast_gpu_measures_one_or_two_networks(chosen):
    """From the largest down; before, all of them from the smallest up were."""
    counts = []
    for budget in (30, 100, 300, 1000):
        gpu = Gpu(4e14)
        chosen(gpu, budget)
        counts.append(len(gpu.measured))
        assert gpu.measured == sorted(gpu.measured, reverse=True)
    assert max(counts) <= 2
    assert counts[-1] == 1, "the largest sees enough images"


def test_benchmarks_end_with_their_share_of_the_budget(chosen):
    """Then the smaller networks are estimated from the larger one."""
    gpu = Gpu(1e14, slow=50)
    choice = chosen(gpu, 10)
    assert len(gpu.measured) == 1
    position = [size.network for size in SIZES].index(choice.config.model)
    assert position < gpu.measured[0]


def test_a_network_is_not_faster_than_its_bound():
    """By the operations that torch counts, for images of the law's side."""
    for position, size in enumerate(SIZES):
        profile = fastest_profile(size, 32, 1e12, Autotune(fastest_network=1.0))
        assert profile.step_seconds == pytest.approx(2048 * flop(position) / 1e12, rel=0.15), size
    small, large = (fastest_profile(SIZES[-1], side, 1e12) for side in (16, 96))
    assert large.step_seconds == pytest.approx(4 * small.step_seconds)


def test_the_flip_test_of_a_gpu_needs_no_benchmark(tmp_path, monkeypatch):
    asked = []

    def learn(train, network, device, images, *_):
        asked.append(images)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.budget.autotune.flip_test.flip_accuracy", learn)
    for seconds in (2.0, 0.5):
        settings = Autotune(flip_test_min_seconds=0.1, flip_test_gpu_step_seconds=0.01)
        with pytest.raises(KeyboardInterrupt):
            flip_test(NOISE, None, GPU, tmp_path, seconds, settings)
    assert asked == [20_000, 6250]


def test_a_flip_test_that_tells_nothing_is_repeated_when_there_is_more_time(tmp_path, monkeypatch):
    """And not before: the runs of a sweep, which have the same time, are flipped alike."""
    nothing, evident = FlipAccuracy(0.5, 0.45, 20, 2, 1), FlipAccuracy(0.9, 0.3, 1000, 600, 0)
    assert not nothing.is_evident()
    assert evident.is_evident()
    results = iter([nothing, evident])
    monkeypatch.setattr("fastconv.budget.autotune.flip_test.flip_accuracy", lambda *_: next(results))
    told = [flip_test(NOISE, None, GPU, tmp_path, seconds).plain for seconds in (3.0, 3.0, 2.0, 1.0, 4.0, 3.0, 9.0)]
    assert told == [0.5] * 4 + [0.9] * 3
