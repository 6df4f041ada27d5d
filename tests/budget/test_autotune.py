"""Autotune on simulated machines and on this one: what it chooses for a budget."""

import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import SMALL, Unseen, faulty_benchmarks, only_run
from omegaconf import OmegaConf
from scipy.stats import binomtest

from fastconv.budget.autotune.choose import Choice, autotune, choose, for_seconds_left, left_open
from fastconv.budget.autotune.flip_test import FlipAccuracy, flip_accuracy, flip_test, mcnemar
from fastconv.budget.autotune.proxy import train_proxy
from fastconv.budget.autotune.scaling_law import EXPONENT, MODEL_SIZES, ModelSize, size_families
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import SpeedProfiles
from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, measure_speed
from fastconv.budget.clock import Clock
from fastconv.budget.flops import training_flops
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData, representative_rows
from fastconv.data.loading import load
from fastconv.models.configs import model_settings
from fastconv.models.tta import views_of
from fastconv.runs.results import Results

CPU = Device("cpu", "a processor", "fp32", threads=1, keep_memory=False, compile=False)
WIDTHS = [size.network.widths for size in MODEL_SIZES]
# Other values than the defaults, to see that they are the ones that count.
OTHER = Autotune(
    benchmark_share=0.05,
    flip_test_share=0.01,
    max_epochs=30,
    other_look_gain=0.3,
    other_look_min_epochs=4,
    pruning_gain=0.15,
    pruning_epochs=(4, 50),
    pruning_share=0.08,
)
Benchmark = Callable[..., SpeedProfile]


def flip_result(plain: float, flipped: float) -> FlipAccuracy:
    """A flip-invariance test with these accuracies, in which 20 images are right only flipped."""
    return FlipAccuracy(plain, flipped, 1000, round(1000 * (plain - flipped)) + 20, 20)


def machine(operations_per_second: float, micro_batches: float = 8) -> Benchmark:
    """The benchmark of a machine with this speed, which takes the time of some micro batches."""

    def benchmark(key: BenchmarkKey, device: Device, cache: Path, repeats: int = 1) -> SpeedProfile:
        seconds = training_flops(key.model, key.settings, key.shape, key.classes) / operations_per_second
        return SpeedProfile(
            key.batch_size * seconds,
            seconds / 3,
            memory_mb=100.0,
            benchmark_seconds=micro_batches * key.micro_batch_size * seconds,
        )

    return benchmark


@functools.cache
def digits(root: Path, copies: int = 1) -> tuple[ImageData, int]:
    """The training images, several times over, and the number of test images."""
    train, test = load("digits", root)
    return train.take(np.tile(np.arange(len(train)), copies)), len(test)


@functools.cache
def config_of(*overrides: str) -> Config:
    return OmegaConf.to_object(compose("train", list(overrides)))


@pytest.fixture
def chosen(digits_root: Path) -> Callable[..., Choice]:
    """Chooses for the digits on a machine."""

    def chosen(
        benchmark: Benchmark,
        *overrides: str,
        flips: FlipAccuracy | None = None,
        copies: int = 1,
        settings: Autotune = AUTOTUNE,
        device: str = "cpu",
    ) -> Choice:
        given = ["experiment=best", "dataset=digits", f"data={digits_root}", "trainer=cpu", *overrides]
        config, (train, scored) = config_of(*given), digits(digits_root, copies)
        profiles = SpeedProfiles(config, CPU, train, digits_root, benchmark, settings)
        names = left_open(config, given)
        return choose(config, names, device, train, scored, profiles, lambda seconds: flips, settings)

    return chosen


def image_seconds(size: ModelSize, operations_per_second: float) -> float:
    """Seconds of training per image of the digits."""
    return training_flops("airbench", model_settings(size.network), (8, 8, 1), 10) / operations_per_second


class PlainSearch:
    """Images seen and expected error of each model size, when benchmarks take no time and scoring a third of training.

    With less than 5,000 training images, the smallest size is none where the next one has time for 20 steps.

    Args:
        count: training images.
        scored: images that are scored after training.
    """

    def __init__(
        self, root: Path, operations: float, budget: float, copies: int = 1, settings: Autotune = AUTOTUNE
    ) -> None:
        train, scored = digits(root, copies)
        share = 1 - settings.benchmark_share - settings.flip_test_share
        most = settings.max_epochs * math.sqrt(max(45_000, len(train)) * len(train))
        self.few = len(train) < 5000
        self.seconds = [image_seconds(size, operations) for size in MODEL_SIZES]
        self.images = [min((share * budget - scored * each / 3) / each, most) for each in self.seconds]
        self.epochs = [images / len(train) for images in self.images]
        self.log_errors = [
            size.irreducible + math.log(1 + (size.half_images / max(images, 1)) ** EXPONENT)
            for size, images in zip(MODEL_SIZES, self.images, strict=True)
        ]

    def best(self, gains: list[float] | None = None) -> int:
        """The model size with the least error, of those from the smallest up to where the error first rises."""
        errors = np.subtract(self.log_errors, gains or 0.0)
        rises = np.flatnonzero(np.diff(errors) > 0)
        best = int(np.argmin(errors[: rises[0] + 1] if len(rises) else errors))
        return max(best, 1) if self.few and self.images[1] >= 20 * 125 else best


@pytest.mark.parametrize("settings", [AUTOTUNE, OTHER], ids=["default", "other"])
@pytest.mark.parametrize("operations", [3e8, 1e9, 1e10, 1e11])
def test_the_network_has_the_least_expected_error(chosen, digits_root, operations, settings):
    given = ("budget.seconds=50", "dataset.flip=0", "batch_size=125", "tta.flip=false", "tta.shift=0")
    choice = chosen(machine(operations, micro_batches=0), *given, settings=settings)
    plain = PlainSearch(digits_root, operations, 50, settings=settings)
    assert choice.config.model.widths == WIDTHS[plain.best()]


def test_the_reasons_say_in_how_many_seconds(chosen, digits_root):
    choice = chosen(machine(1e10, micro_batches=0), "budget.seconds=50", "dataset.flip=0", settings=OTHER)
    epochs = re.match(r"\S+, ([\d.]+) epochs in 47 s", choice.reasons["model"])  # 5 and 1 % of 50 s are for choosing
    steps = re.fullmatch(rf"{choice.config.batch_size}, for ([\d,]+) steps in 47 s", choice.reasons["batch_size"])
    assert epochs, choice.reasons
    assert steps, choice.reasons
    images = len(digits(digits_root)[0])
    told = float(epochs[1]) * images / choice.config.batch_size
    assert float(steps[1].replace(",", "")) == pytest.approx(told, rel=0.01, abs=1)


def pictures(side: int, channels: int = 3) -> ImageData:
    """5,000 images of noise, of two classes."""
    images = np.random.default_rng(0).integers(0, 256, (50, side, side + 3, channels), np.uint8)
    return ImageData("pictures", np.tile(images, (100, 1, 1, 1)), np.arange(5000) % 2, ("a", "b"), "0" * 64)


def network_for(root: Path, side: int, seconds: float, channels: int = 3) -> tuple[list[int], int]:
    """Widths, and stride of the first layer, that are chosen for images of this side."""
    given = ["experiment=best", "dataset=digits", f"data={root}", "trainer=cpu", f"budget.seconds={seconds}"]
    config, train = config_of(*given), pictures(side, channels)
    profiles = SpeedProfiles(config, CPU, train, root, machine(1e10, micro_batches=0))
    model = choose(config, left_open(config, given), "cpu", train, 1000, profiles, lambda seconds: None).config.model
    return model.widths, model.whitening_stride


def test_short_budgets_choose_maps_of_half_the_side(digits_root):
    chosen = [network_for(digits_root, 32, seconds) for seconds in (1, 3, 10, 30, 100, 300, 1000)]
    strides = [stride for _, stride in chosen]
    assert strides == sorted(strides, reverse=True)
    assert set(strides) == {1, 2}
    for one, other in itertools.pairwise(chosen):
        assert one[1] > other[1] or one[0] <= other[0]


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("seconds", [1, 10, 100])
def test_larger_images_get_the_maps_of_small_ones(digits_root, factor, seconds):
    """Patches have more pixels then, so that the same network takes a little longer."""
    widths, stride = network_for(digits_root, 32 * factor, 1.1 * seconds)
    assert (widths, stride / factor) == network_for(digits_root, 32, seconds)


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1)], ids=["small", "grey"])
def test_images_that_are_small_or_grey_get_no_stride(digits_root, side, channels):
    assert {network_for(digits_root, side, seconds, channels)[1] for seconds in (0.1, 1, 100)} == {1}


def test_more_seconds_never_choose_a_smaller_network(chosen):
    budgets = (1, 3, 10, 30, 100, 300, 1000, 3000)
    sizes = [WIDTHS.index(chosen(machine(2e9), f"budget.seconds={budget}").config.model.widths) for budget in budgets]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("seconds", [200, 400])
def test_a_disturbed_benchmark_of_one_network_does_not_choose_a_smaller_one(chosen, seconds):
    """Something else keeps the machine busy while it measures the second network."""
    quiet = machine(2e9, micro_batches=0)

    def disturbed(key: BenchmarkKey, *given: Any, **more: Any) -> SpeedProfile:
        profile, factor = quiet(key, *given, **more), 5 if key.settings["widths"] == WIDTHS[1] else 1
        return dataclasses.replace(
            profile, step_seconds=factor * profile.step_seconds, score_seconds=factor * profile.score_seconds
        )

    model = chosen(quiet, f"budget.seconds={seconds}").config.model
    assert WIDTHS.index(model.widths) >= 1
    assert chosen(disturbed, f"budget.seconds={seconds}").config.model == model


def slower(profile: SpeedProfile, factor: float, **more: Any) -> SpeedProfile:
    times = ("step_seconds", "score_seconds", "update_seconds")
    return dataclasses.replace(profile, **{name: factor * getattr(profile, name) for name in times}, **more)


@pytest.mark.parametrize("seconds", [2, 30, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_benchmarks_that_are_wrong_at_random_still_end_in_a_choice(chosen, seed, seconds):
    """Each 1000 times too slow, or 10 times too fast."""
    draw, quiet = np.random.default_rng(seed), machine(2e9)

    def faulty(key: BenchmarkKey, *given: Any, **more: Any) -> SpeedProfile:
        return slower(quiet(key, *given, **more), draw.choice([1000.0, 0.1]))

    config = chosen(faulty, f"budget.seconds={seconds}").config
    assert config.model.widths in WIDTHS
    assert 64 <= config.batch_size <= 1438
    assert config.batch_size % config.micro_batch_size == 0


def test_where_nothing_is_affordable_the_smallest_network_gets_small_batches(chosen):
    quiet = machine(2e9)
    config = chosen(lambda *given, **more: slower(quiet(*given, **more), 1e6), "budget.seconds=30").config
    assert (config.model.widths, config.batch_size, config.tta.shift) == (WIDTHS[0], 64, 0)


@pytest.mark.parametrize(("disturbed", "factor"), [(0, 10), (1, 30)], ids=["the smaller", "the larger"])
def test_a_benchmark_that_contradicts_that_of_another_size_is_not_kept(chosen, tmp_path, disturbed, factor):
    """Nor does it decide, although it is confirmed."""
    quiet = machine(2e9, micro_batches=0)

    def benchmark(key: BenchmarkKey, *given: Any, **more: Any) -> SpeedProfile:
        size = WIDTHS.index(key.settings["widths"])
        path = tmp_path / str(size)
        path.touch()
        return slower(quiet(key, *given, **more), factor if size == disturbed else 1, path=str(path))

    model = chosen(benchmark, "budget.seconds=300").config.model
    assert not (tmp_path / str(disturbed)).exists()
    assert (tmp_path / str(1 - disturbed)).exists()
    assert model == chosen(quiet, "budget.seconds=300").config.model


@pytest.mark.parametrize("first", [0.0, 0.15])
def test_benchmarks_take_their_share_of_the_budget(chosen, first):
    """By a count, on machines whose time grows as estimated, but for some seconds of each network's first benchmark."""
    shares = []
    for scale in np.geomspace(0.01, 10, 20).tolist():
        seconds = {size.network.widths[0]: scale * size.flops**AUTOTUNE.time_exponent for size in MODEL_SIZES}
        made = dict.fromkeys(seconds, 0)

        def benchmark(key, device, cache, repeats=1, seconds=seconds, made=made):
            width = key.settings["widths"][0]
            made[width] = max(repeats, made[width])
            return SpeedProfile(
                seconds[width],
                seconds[width] / 1e5,
                memory_mb=100.0,
                benchmark_seconds=seconds[width],
                first_seconds=first,
            )

        chosen(benchmark, "budget.seconds=30", "dataset.flip=0")
        assert max(made.values()) <= 2
        shares.append(sum(made[width] * seconds[width] + first * (made[width] > 0) for width in made) / 30)
        assert shares[-1] < 0.04 + first / 30 or sum(made.values()) == 1
    assert max(share for share in shares if share < 0.04 + first / 30) > 0.03


@pytest.mark.parametrize(
    ("flipped", "seconds", "share"), [(0.8, 1000, 0.3), (0.4, 1000, 0), (0.8, 1, 0), (0.8, 1e6, 0)]
)
def test_images_are_pruned_where_a_gain_was_measured(chosen, flipped, seconds, share):
    """Neither with a small nor with a large network, nor images that are not flipped."""
    flips, budget = flip_result(0.8, flipped), f"budget.seconds={seconds}"
    choice = chosen(machine(2e9), budget, flips=flips, copies=5)
    assert (WIDTHS.index(choice.config.model.widths) in (2, 3)) == (seconds == 1000)
    assert choice.config.data_pruning == share
    assert ("data_pruning" in choice.reasons) == (share > 0)
    assert chosen(machine(2e9), budget, "data_pruning=0.1", flips=flips, copies=5).config.data_pruning == 0.1


def test_settings_of_the_command_line_stay(chosen):
    choice = chosen(machine(1e10), "model=davidnet", "model.width=4", "batch_size=64", "augment=none", "tta.shift=2",
                    "schedule.max_epochs=3", "dataset.flip=0.5")  # fmt: skip
    config = choice.config
    assert (config.model.name, config.model.width, config.batch_size) == ("davidnet", 4, 64)
    assert (config.augment.crop.padding, config.tta.shift, config.schedule.max_epochs) == (0, 2, 3)
    assert config.dataset.flip == 0.5
    assert choice.reasons == {}
    part = chosen(machine(1e10), "model.widths=[4,8]")
    assert part.config.model.widths == [4, 8]
    assert "batch_size" in part.reasons
    assert "model" not in part.reasons


def test_the_same_measurements_give_the_same_choice(tmp_path, monkeypatch):
    """Measured, and then read from the cache, whose files stay as they are; without a look at the test images."""
    calls = []

    def by_arithmetic(key: BenchmarkKey, device: Device) -> SpeedProfile:
        """Times that do not contradict each other, as those of a busy machine may; each call has its own."""
        calls.append(key)
        profile, seconds = measure_speed(key, device), (1 + len(calls) / 1000) / 1e9
        seconds *= training_flops(key.model, key.settings, key.shape, key.classes)
        times = {"step_seconds": key.batch_size * seconds, "score_seconds": seconds / 3, "update_seconds": 0.0}
        return dataclasses.replace(profile, spread=1.0, **times)

    monkeypatch.setattr("fastconv.budget.benchmark.measure_speed", by_arithmetic)
    load("digits", tmp_path)
    given = ["experiment=best", "dataset=digits", f"data={tmp_path}", "trainer=cpu", "budget.seconds=20"]
    given.append("trainer.num_threads=1")
    settings = Autotune(flip_test_min_seconds=0.0)
    config = config_of(*given)
    data = check_data(config, config.autotune)
    data = dataclasses.replace(data, test=Unseen(len(data.test)))
    first = autotune(config, data, given, Clock(), settings)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "benchmarks").iterdir()}
    assert len(kept) >= 2, "a benchmark and the flip-invariance test"
    measured = len(calls)
    assert autotune(config, data, given, Clock(), settings) == first
    assert len(calls) == measured > 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "benchmarks").iterdir()} == kept


@pytest.mark.parametrize(
    ("spent", "is_repeated", "seconds"),
    [(0.0, False, 15.0), (7.0, False, 15.0), (12.0, False, 3.0), (12.0, True, 15.0), (16.0, False, 15.0)],
)
def test_a_slow_start_leaves_less_to_choose_for(spent, is_repeated, seconds):
    """Not a usual one, so that the same command chooses the same, nor where the choice is made again for a resume."""
    config = config_of("experiment=best", "dataset=digits", "budget.seconds=15")
    found = for_seconds_left(config, Clock(lambda: 0.0, start_seconds=spent), is_repeated)
    assert found == dataclasses.replace(config, budget=dataclasses.replace(config.budget, seconds=seconds))


def test_start_up_that_the_budget_does_not_count_leaves_all_of_it():
    config = config_of("experiment=best", "dataset=digits", "budget.seconds=15", "budget.counts=[train]")
    assert for_seconds_left(config, Clock(lambda: 0.0, start_seconds=12.0), False) == config


def test_a_run_that_started_slowly_trains_what_fits(command, monkeypatch, simulated_time):
    """The choice is for the 3 s that are left of 20, and the budget stays as it was given."""
    monkeypatch.setattr("fastconv.train.take_start_seconds", lambda: 17.0)
    given = ("experiment=best", "dataset=digits", "budget.seconds=20", "dry_run=true")
    plans = [command("train", *given, resume) for resume in ("resume=null", "resume=auto")]
    assert [plan.code for plan in plans] == [0, 0], plans
    for plan, seconds in zip(plans, (3, 19), strict=True):
        line = " ".join(plan.out.split())
        assert f"epochs in {seconds} s" in line
        assert "20 s for everything up to the result, of which 17" in line


def test_steps_views_and_epochs_follow_the_budget(chosen):
    short, long = (chosen(machine(1e9), f"budget.seconds={seconds}") for seconds in (2, 1_000_000))
    assert short.config.batch_size < long.config.batch_size
    assert short.config.schedule.max_epochs is None
    assert "epochs" not in short.reasons
    assert long.config.schedule.max_epochs is None, "a CPU has the time, and uses it"
    on_gpu = chosen(machine(1e9), "budget.seconds=1000000", device="cuda")
    assert on_gpu.config.schedule.max_epochs == pytest.approx(100 * math.sqrt(45_000 / 1438), rel=0.01)
    assert long.config.tta.shift == 1
    assert long.config.augment.cutout.size == 3, "large networks that see the images often get harder ones"
    assert short.config.augment.cutout.size == 0
    slow = chosen(machine(1e9), "budget.seconds=0.05")
    assert slow.config.tta.shift == 0, "views that would take more than a tenth of the budget are left out"


@pytest.mark.parametrize("devices", [1, 2])
def test_devices_share_the_work(chosen, devices):
    given = (f"trainer.devices={devices}", "trainer.strategy=ddp", "budget.seconds=200")
    config = chosen(machine(1e9), *given).config
    assert config.batch_size % (config.micro_batch_size * devices) == 0
    alone = chosen(machine(1e9), f"budget.seconds={200 * devices}").config
    assert config.model.widths == alone.model.widths


def test_flipped_digits_are_other_digits_and_symmetric_ones_are_not(digits_root):
    train, _ = digits(digits_root)
    asymmetric = flip_accuracy(train, MODEL_SIZES[0].network, CPU, images=5_000)
    assert asymmetric.plain > 0.8
    assert asymmetric.flipped < 0.7 * asymmetric.plain
    both = train.images.astype(np.uint16)
    train = dataclasses.replace(train, images=((both + both[:, :, ::-1]) // 2).astype(np.uint8))
    symmetric = flip_accuracy(train, MODEL_SIZES[0].network, CPU, images=5_000)
    assert symmetric.flipped == pytest.approx(symmetric.plain, abs=0.01)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 0), (10, 10), (5, 20), (120, 60)])
def test_the_p_value_is_that_of_a_binomial_test(lost, gained):
    wanted = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("plain", "flipped", "lost", "is_evident"),
    [
        (0.032, 0.036, 28, False),  # 100 classes: nearly all that is right is right by chance
        (0.312, 0.317, 80, True),  # CIFAR-10: a difference would have shown
        (0.705, 0.528, 200, True),  # Fashion-MNIST
        (0.883, 0.41, 500, True),  # digits
        (0.05, 0.01, 45, True),
    ],
)
def test_flips_are_judged_by_evidence(plain, flipped, lost, is_evident):
    found = FlipAccuracy(plain, flipped, 1000, lost, lost - round(1000 * (plain - flipped)))
    assert found.is_evident() == is_evident


def test_without_evidence_the_setting_of_the_data_set_stays(chosen):
    choice = chosen(machine(1e9), "budget.seconds=200", flips=FlipAccuracy(0.032, 0.036, 1000, 25, 29))
    assert choice.config.dataset.flip == 0
    assert "too few to tell" in choice.reasons["flip"]


def by_class(count: int, noisy: int) -> ImageData:
    """Images in the order of their classes, as those of one's own data sets are; the last class has far more noise."""
    generator, labels = np.random.default_rng(0), np.sort(np.arange(count) % 10)
    widths = np.where(labels == 9, noisy, 2)[:, None, None, None]
    images = (128 + widths * generator.standard_normal((count, 8, 8, 1))).clip(0, 255).astype(np.uint8)
    return ImageData("sorted", images, labels, tuple("0123456789"), "")


def test_a_whitening_layer_is_of_all_classes_also_where_images_are_in_their_order():
    """Its components then have the same variance over all images."""
    data = by_class(7000, noisy=40)
    module = train_proxy(data, MODEL_SIZES[0].network, CPU, batches=[], steps=0)
    inputs = module.normalise(torch.from_numpy(data.images))
    with torch.no_grad():
        layer = module.model.whitening
        outputs = F.conv2d(inputs, layer.weight[: layer.out_channels // 2])
    assert outputs.var((0, 2, 3)).tolist() == pytest.approx([1.0] * outputs.shape[1], rel=0.2)


def test_the_flip_test_normalises_by_images_of_all_classes(monkeypatch):
    whitened = []

    def untrained(data, *given):
        whitened.append(data)
        return lambda images: torch.zeros(len(images), 10)

    monkeypatch.setattr("fastconv.budget.autotune.flip_test.train_proxy", untrained)
    flip_accuracy(by_class(5000, noisy=40), MODEL_SIZES[0].network, CPU, images=125)
    assert np.bincount(whitened[0].labels).tolist() == [100] * 10


@pytest.mark.parametrize("each", [1, 2])
def test_the_flip_test_holds_out_images_of_a_few_of_very_many_classes(monkeypatch, each):
    """Of 30 classes with one or two images, no class would give one of the ten."""
    monkeypatch.setattr(
        "fastconv.budget.autotune.flip_test.train_proxy", lambda *given: lambda images: torch.zeros(len(images), 30)
    )
    few = by_class(30 * each, noisy=40)
    few = dataclasses.replace(few, labels=np.repeat(np.arange(30), each), classes=tuple(map(str, range(30))))
    found = flip_accuracy(few, MODEL_SIZES[0].network, CPU, 125, Autotune(flip_test_held_out=10))
    assert (found.images, found.plain) == (10, 0.1), "every third or sixth image, of which one is of class 0"
    assert not found.is_evident()


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ([0, 0, 0, 0, 1, 1], [0, 2, 4]),
        ([1, 1, 1, 1, 0, 0], [0, 2, 4]),
        ([1, 0, 1, 0, 2, 2], [0, 2, 4]),
        ([1, 0, 0, 0, 1, 1], [0, 1, 2]),
        ([0, 0, 1], [0, 1, 2]),
        ([0], [0]),
    ],
)
def test_rows_that_stand_for_all_are_the_first_unless_images_are_in_order(labels, rows):
    """So the results of seeds on the built-in data sets, whose images are shuffled, stay."""
    assert representative_rows(np.array(labels), 3).tolist() == rows


def test_the_proxy_stops_learning_when_its_time_is_over(digits_root):
    """Its 400 steps would otherwise be right for nine of ten digits."""
    train, _ = digits(digits_root)
    assert flip_accuracy(train, MODEL_SIZES[0].network, CPU, images=50_000, seconds=0.0).plain < 0.5


def test_flips_are_tested_once_where_there_is_time(digits_root, tmp_path):
    """By 4 s, which a machine with this speed needs for some 2,500 images."""
    train, _ = digits(digits_root)
    profiles = SpeedProfiles(config_of("experiment=best", "dataset=digits"), CPU, train, tmp_path, machine(5e8))
    assert flip_test(train, profiles, CPU, tmp_path, seconds=1.0) is None
    tested = flip_test(train, profiles, CPU, tmp_path, seconds=4.0)
    assert not tested.same_class()
    assert flip_test(train, profiles, CPU, tmp_path, seconds=1.0) == tested, "from the cache"
    (path,) = tmp_path.glob("flip_test-*.json")
    for name, value in (("plain", "x"), ("plain", float("nan")), ("images", None), ("lost", 10**400), ("plain", 2)):
        path.write_text(json.dumps({**dataclasses.asdict(tested), name: value}))
        assert flip_test(train, profiles, CPU, tmp_path, seconds=1.0) is None, "damaged"


@pytest.mark.parametrize(("flipped", "short", "long"), [(0.8, True, True), (0.6, False, True), (0.4, False, False)])
@pytest.mark.parametrize("seconds", [0.5, 2000])
def test_images_that_look_different_when_flipped_are_flipped_if_there_is_time(chosen, flipped, short, long, seconds):
    """By the accuracy of a proxy network on flipped images, where it is 80 % on images as they are."""
    wanted = {0.5: short, 2000: long}[seconds]
    choice = chosen(machine(2e10), f"budget.seconds={seconds}", flips=flip_result(0.8, flipped))
    assert (choice.config.dataset.flip > 0) == wanted, choice.reasons
    assert (choice.config.augment.flip.probability > 0) == wanted
    assert ("flipped" in choice.reasons["augment"]) == wanted
    assert choice.reasons["flip"].startswith("yes" if wanted else "no")


@pytest.mark.parametrize(("probability", "flips"), [(0, False), (0.5, True)])
def test_a_policy_that_is_set_decides_about_flips(chosen, probability, flips):
    """Also in scoring: a network that saw no flipped image is not shown one, whatever a flip test would say."""
    given = ("budget.seconds=1000", "augment=crop", f"augment.flip.probability={probability}")
    choice = chosen(machine(2e10), *given, flips=flip_result(0.8, 0.8 - probability))
    assert "flip" not in choice.reasons
    assert choice.config.augment.mirrors == flips
    assert views_of(choice.config.tta, choice.config.augment.mirrors).flip == flips


def test_without_a_flip_test_the_setting_of_the_data_set_stays(chosen):
    choice = chosen(machine(1e9), "budget.seconds=20")
    assert choice.config.dataset.flip == 0
    assert choice.reasons["flip"].startswith("dataset.flip=0 stays")


@pytest.mark.parametrize("settings", [AUTOTUNE, OTHER], ids=["default", "other"])
def test_a_smaller_network_may_win_by_flips_that_it_has_time_for(chosen, digits_root, settings):
    """By a plain search among all networks, for images that look different when flipped."""
    smaller = 0
    given = ("budget.seconds=500", "batch_size=125", "tta.flip=false", "tta.shift=0", "data_pruning=0")
    for operations in np.geomspace(1e10, 1e11, 20).tolist():
        simulated = machine(operations, micro_batches=0)
        choice = chosen(simulated, *given, flips=flip_result(0.8, 0.6), copies=30, settings=settings)
        plain = PlainSearch(digits_root, operations, 500, 30, settings)
        doublings = [math.log2(epochs / settings.other_look_min_epochs) for epochs in plain.epochs]
        best = plain.best([settings.other_look_gain * min(1, max(0, each)) for each in doublings])
        assert choice.config.model.widths == WIDTHS[best]
        assert (choice.config.dataset.flip > 0) == (doublings[best] >= 0)
        unflipped = chosen(simulated, *given, "dataset.flip=0", copies=30, settings=settings).config.model.widths
        smaller += WIDTHS.index(choice.config.model.widths) < WIDTHS.index(unflipped)
    assert smaller > 0


@pytest.mark.parametrize("settings", [AUTOTUNE, OTHER], ids=["default", "other"])
def test_a_network_may_win_by_data_pruning(chosen, digits_root, settings):
    """By a plain search among all networks, for images that may be flipped."""
    others, (fewest, most) = 0, settings.pruning_epochs
    given = ("budget.seconds=500", "batch_size=125", "tta.flip=false", "tta.shift=0")
    flips, (train, _) = flip_result(0.8, 0.8), digits(digits_root, 30)
    for operations in np.geomspace(1e9, 2e11, 40).tolist():
        simulated = machine(operations, micro_batches=0)
        choice = chosen(simulated, *given, flips=flips, copies=30, settings=settings)
        plain = PlainSearch(digits_root, operations, 500, 30, settings)
        # The second smallest network learns from each image once, and scores it.
        is_affordable = 4 / 3 * len(train) * plain.seconds[1] <= settings.pruning_share * 500
        pruned = [
            size in (2, 3) and fewest <= epochs <= most and is_affordable for size, epochs in enumerate(plain.epochs)
        ]
        best = plain.best([settings.pruning_gain * each for each in pruned])
        assert choice.config.model.widths == WIDTHS[best]
        assert (choice.config.data_pruning > 0) == pruned[best]
        without = chosen(simulated, *given, "data_pruning=0", flips=flips, copies=30, settings=settings)
        others += without.config.model != choice.config.model
    assert others > 0


def test_a_batch_larger_than_the_data_set_is_no_obstacle(command):
    """Unless it is asked for."""
    given = ("experiment=best", "dataset=digits", "dataset.holdout=0.9", "budget.seconds=30", "dry_run=true")
    assert command("train", *given).code == 0
    assert "batch_size=512 is not possible" in command("train", *given, "batch_size=512").err


def test_a_run_says_what_was_chosen_and_goes_on_with_it(command, tmp_path):
    given = ("experiment=best", "dataset=digits", "budget.seconds=8", "resume=auto", "outputs=runs")
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    assert "chosen: model" in ended.out
    assert "chosen: flip" in ended.out
    folder = next(tmp_path.glob("runs/digits/*"))
    results = json.loads((folder / "results.json").read_text())
    assert results["stop_reason"] in ("budget", "epochs")
    assert results["accuracy_tta"] is not None
    assert results["hparams"]["model.widths"] in WIDTHS
    results["stop_reason"] = "interrupt"
    (folder / "results.json").write_text(json.dumps(results))
    assert "going on in" in command("train", *given).out


def test_nothing_can_be_chosen_without_a_budget(command):
    ended = command("train", "experiment=best", "dataset=digits", "budget.seconds=null", "schedule.max_epochs=1")
    assert ended.code == 1
    assert ended.err.strip().count("\n") == 0
    assert "give seconds" in ended.err
    ended = command("train", "experiment=best", "dataset=digits", "autotune=[modle]")
    assert ended.code == 1
    assert "did you mean model?" in ended.err


def test_the_stream_of_a_choice_can_be_written_before(command):
    given = ("experiment=best", "dataset=digits", "budget.seconds=20", "stream.epochs=2")
    ended = command("precompute", *given)
    assert ended.code == 0, ended.err
    ended = command("train", *given, "dry_run=true")
    assert ended.code == 0
    assert "chosen: model" in ended.out


@pytest.fixture
def no_benchmarks(digits_root):
    """No kept benchmarks, neither true ones before the test nor wrong ones after it."""
    shutil.rmtree(digits_root / "benchmarks", ignore_errors=True)
    yield
    shutil.rmtree(digits_root / "benchmarks", ignore_errors=True)


@pytest.mark.parametrize("factor", [1e6, 0.1], ids=["too slow", "too fast"])
def test_a_run_whose_benchmarks_are_all_wrong_ends_well(command, tmp_path, no_benchmarks, simulated_time, factor):
    """It is not refused, ends within its budget and annealed, and has learned."""
    with faulty_benchmarks(0, [factor]):
        ended = command("train", "experiment=best", "dataset=digits", "budget.seconds=2", "outputs=runs")
    assert ended.code == 0, ended.err
    assert "the machine seems busy" in ended.out or factor < 1
    found = Results.read(only_run(tmp_path / "runs"))
    assert found.seconds_counted <= 2
    assert found.steps > 20
    assert found.final_lr < 0.02
    assert found.accuracy > 0.3, "ten classes"


def test_a_plain_run_whose_benchmark_is_too_slow_ends_well(command, tmp_path, no_benchmarks, simulated_time):
    given = (*SMALL, "budget.seconds=1", "schedule.max_epochs=null", "validate.on=none")
    with faulty_benchmarks(0, [1000.0]):
        ended = command("train", "dataset=digits", *given)
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert found.seconds_counted <= 1.02, "each reading of the simulated clock takes time"
    assert found.steps > 20
    assert found.final_lr < 0.02


def test_images_are_small_first_where_that_was_measured_to_help():
    given = ["experiment=best", "dataset=fashion_mnist", "budget.seconds=100", "trainer=cpu"]
    config, labels = config_of(*given), np.arange(20_000) % 10
    train = ImageData("grey", np.zeros((20_000, 28, 28, 1), np.uint8), labels, tuple("abcdefghij"), "digest")
    few = dataclasses.replace(train, images=train.images[:, :20, :20])
    resized = []
    for speed in np.geomspace(1e9, 1e12, 13):
        for images, device in ((train, "cpu"), (train, "cuda"), (few, "cpu")):
            profiles = SpeedProfiles(config, CPU, images, Path(), machine(speed))
            choice = choose(config, left_open(config, given), device, images, 0, profiles, lambda seconds: None)
            share = choice.config.progressive_resizing
            assert (share > 0) == ("progressive_resizing" in choice.reasons)
            if share:
                assert (images is train, device, choice.config.model.widths) == (True, "cpu", [32, 128, 128])
                assert "21x21" in choice.reasons["progressive_resizing"]
                resized.append(speed)
    assert 0 < len(resized) < 13


def colours(images, classes):
    labels, names = np.arange(images) % classes, tuple(map(str, range(classes)))
    return ImageData("colours", np.zeros((images, 32, 32, 3), np.uint8), labels, names, f"{images} {classes}")


def network_at(train, speed, seconds=60):
    given = ["experiment=best", "dataset=cifar10", f"budget.seconds={seconds}", "trainer=cpu"]
    profiles = SpeedProfiles(config_of(*given), CPU, train, Path(), machine(speed))
    choice = choose(config_of(*given), left_open(config_of(*given), given), "cpu", train, 0, profiles, lambda _: None)
    return choice.config.model


def test_few_images_are_not_for_the_fast_sizes():
    speeds = np.geomspace(3e8, 1e11, 9)
    strides = {count: {network_at(colours(count, 10), speed).whitening_stride for speed in speeds}
               for count in (4_000, 6_000)}  # fmt: skip
    assert strides == {4_000: {1}, 6_000: {1, 2}}


def test_of_few_colour_images_no_plain_network_is_left_out():
    """The smallest one, which is for no few images, is not among those for colours. Here 16-64-64 would see 27,000
    images and 32-128-128 8,000, after which the scaling law says 1.7 and 2.2."""
    assert network_at(colours(4_000, 10), 3e10).widths == [16, 64, 64]
    assert network_at(colours(4_000, 10), 1e12).widths != [16, 64, 64]


def test_many_classes_take_a_network_that_sees_more_images():
    speeds = np.geomspace(3e8, 1e12, 25)

    def time_of(classes, speed):
        network = network_at(colours(6_000, classes), speed)
        return next(size.flops for family in size_families(32, 3) for size in family if size.network == network)

    few, ten, hundred = ([time_of(classes, speed) for speed in speeds] for classes in (3, 10, 100))
    assert few == ten
    assert all(many <= usual for many, usual in zip(hundred, ten, strict=True))
    assert hundred != ten
