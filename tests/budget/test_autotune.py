"""What `experiment=best` chooses, from made-up speeds and from real ones."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from fastconv.budget.autotune import choose as best
from fastconv.budget.autotune import speed as profiles
from fastconv.budget.autotune.flip_test import flip_accuracy
from fastconv.budget.autotune.scaling_law import MODEL_SIZES, ModelSize
from fastconv.budget.autotune.speed import GROWTH
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.clock import Clock
from fastconv.budget.flops import training_flops
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.config.prerequisites import check_data
from fastconv.data.sources.builtin import load
from fastconv.data.splits import Splits

CPU = Device("cpu", "a processor", "fp32", threads=1, keep_memory=False, compile=False)
WIDTHS = [size.network.widths for size in MODEL_SIZES]


@pytest.fixture
def speed(monkeypatch, digits_root, tmp_path):
    """Have a machine of so many operations a second, of which a look takes those of `parts` parts; returns what was
    looked at."""
    looked = []

    def machine(operations_per_second: float, parts: float = 8) -> list:
        def benchmark(key, device, cache, limit=None, repeats=1):
            looked.append(key)
            each = training_flops(key.model, key.settings, key.shape, key.classes)
            seconds = each / operations_per_second
            return SpeedProfile(
                key.batch_size * seconds,
                seconds / 3,
                100.0,
                benchmark_seconds=parts * key.micro_batch_size * seconds,
            )

        monkeypatch.setattr(profiles, "benchmark", benchmark)
        return looked

    return machine


def image_seconds(size: ModelSize, operations_per_second: float) -> float:
    """Of an image of the digits, learned from."""
    settings = {k: v for k, v in dataclasses.asdict(size.network).items() if k not in ("name", "micro_batch_size")}
    return training_flops("airbench", settings, (8, 8, 1), 10) / operations_per_second


def images_seen(budget: float, seconds: float, count: int, scored: int) -> float:
    """In a budget less 4 %, by a network of so many seconds an image, which scores in a third of them."""
    return min((0.96 * budget - scored * seconds / 3) / seconds, 100 * math.sqrt(45_000 * count))


def error_by_the_law(size: ModelSize, images: float) -> float:
    return size.irreducible + math.log(1 + (size.images / max(images, 1)) ** 0.8280)


def least(errors: list[float]) -> int:
    """Which of them, by size, is the least, from the first one on until the next is larger."""
    last = next((at for at in range(1, len(errors)) if errors[at] > errors[at - 1]), len(errors) - 1)
    return int(np.argmin(errors[: last + 1]))


def chosen(digits_root, *overrides: str, data: Splits | None = None) -> best.Choice:
    given = ["experiment=best", "dataset=digits", f"data={digits_root}", "trainer=cpu", *overrides]
    config = OmegaConf.to_object(compose("train", given))
    return best.choose(config, data or check_data(config, config.autotune), given, Clock())


def test_the_network_is_that_of_the_least_expected_error(speed, digits_root):
    """Against a plain search over all networks, whose seconds per image are known."""
    train, test = load("digits", Path(digits_root))
    for operations in (3e8, 1e9, 1e10, 1e11):
        speed(operations, parts=0)
        choice = chosen(
            digits_root, "budget.seconds=50", "dataset.flip=0", "batch_size=125", "tta.flip=false", "tta.shift=0"
        )
        errors = []
        for size in MODEL_SIZES:
            seconds = image_seconds(size, operations)
            images = images_seen(50, seconds, len(train), len(test))
            errors.append(error_by_the_law(size, images))
        assert choice.config.model.widths == WIDTHS[least(errors)]


def test_more_seconds_never_choose_a_smaller_network(speed, digits_root):
    speed(2e9)
    at = [WIDTHS.index(chosen(digits_root, f"budget.seconds={budget}").config.model.widths)
          for budget in (1, 3, 10, 30, 100, 300, 1000, 3000)]  # fmt: skip
    assert at == sorted(at)
    assert at[0] < at[-1]


def test_a_slow_look_at_one_network_does_not_choose_a_smaller_one(speed, digits_root, monkeypatch):
    """Something else keeps the machine busy while it measures the second network."""
    speed(2e9, parts=0)
    quiet = profiles.benchmark

    def disturbed(key, device, cache, limit=None, repeats=1):
        found = quiet(key, device, cache, limit, repeats)
        factor = 5 if key.settings["widths"] == WIDTHS[1] else 1
        return dataclasses.replace(found, **{key: factor * getattr(found, key)
                                             for key in ("step_seconds", "score_seconds")})  # fmt: skip

    for seconds in (200, 400):
        alone = chosen(digits_root, f"budget.seconds={seconds}").config.model
        assert WIDTHS.index(alone.widths) >= 1
        with monkeypatch.context() as patched:
            patched.setattr(profiles, "benchmark", disturbed)
            assert chosen(digits_root, f"budget.seconds={seconds}").config.model == alone


@pytest.mark.parametrize("first", [0.0, 0.15])
def test_looks_take_their_share_of_the_budget(digits_root, monkeypatch, first):
    """Where the guesses are right, but for the first look: against a count of all repeats, of which each network's first
    takes some seconds more, which are not guessed."""
    shares = []
    for scale in np.geomspace(0.01, 10, 20).tolist():
        seconds = {size.network.widths[0]: scale * size.operations**GROWTH for size in MODEL_SIZES}
        made = dict.fromkeys(seconds, 0)

        def benchmark(key, device, cache, limit=None, repeats=1, seconds=seconds, made=made):
            width = key.settings["widths"][0]
            made[width] = max(repeats, made[width])
            look = seconds[width]
            return SpeedProfile(look, look / 1e5, 100.0, benchmark_seconds=look, first_seconds=first)

        monkeypatch.setattr(profiles, "benchmark", benchmark)
        chosen(digits_root, "budget.seconds=30", "dataset.flip=0")
        assert max(made.values()) <= 2
        shares.append(sum(made[width] * seconds[width] + first * (made[width] > 0) for width in made) / 30)
        assert shares[-1] < 0.04 + first / 30 or sum(made.values()) == 1
    assert max(share for share in shares if share < 0.04 + first / 30) > 0.03


@pytest.mark.parametrize(
    ("mirrored", "seconds", "share"), [(0.8, 1000, 0.3), (0.4, 1000, 0), (0.8, 1, 0), (0.8, 1e6, 0)]
)
def test_mirrored_images_rest_where_it_is_known_to_pay(speed, digits_root, monkeypatch, mirrored, seconds, share):
    """Neither with a small nor with a large network, nor images that are not mirrored."""
    monkeypatch.setattr(best._Chooser, "_mirrored", lambda self: [0.8, mirrored])
    train, test = load("digits", Path(digits_root))
    train = train.take(np.tile(np.arange(len(train)), 5))
    data = Splits(train, test.take(np.arange(0)), test)
    speed(2e9)
    choice = chosen(digits_root, f"budget.seconds={seconds}", data=data)
    assert (WIDTHS.index(choice.config.model.widths) in (2, 3)) == (seconds == 1000)
    assert choice.config.data_pruning == share
    assert ("rest" in choice.reasons) == (share > 0)
    assert chosen(digits_root, f"budget.seconds={seconds}", "data_pruning=0.1", data=data).config.data_pruning == 0.1


def test_what_is_set_stays(speed, digits_root):
    speed(1e10)
    choice = chosen(digits_root, "model=davidnet", "model.width=4", "batch_size=64", "augment=none", "tta.shift=2",
                    "schedule.max_epochs=3", "dataset.flip=0.5")  # fmt: skip
    config = choice.config
    assert (config.model.name, config.model.width, config.batch_size) == ("davidnet", 4, 64)
    assert (config.augment.crop.padding, config.tta.shift, config.schedule.max_epochs) == (0, 2, 3)
    assert config.dataset.flip == 0.5
    assert choice.reasons == {}
    part = chosen(digits_root, "model.widths=[4,8]")
    assert part.config.model.widths == [4, 8]
    assert "batch_size" in part.reasons
    assert "model" not in part.reasons


def test_the_same_measurements_give_the_same_choice(digits_root, monkeypatch):
    first = chosen(digits_root, "budget.seconds=80")
    monkeypatch.setattr("fastconv.budget.benchmark._measure", lambda *given: pytest.fail("it is known"))
    monkeypatch.setattr(best, "flip_accuracy", lambda *given: pytest.fail("it is known"))
    assert chosen(digits_root, "budget.seconds=80") == first


def test_steps_views_and_epochs_follow_the_budget(speed, digits_root):
    speed(1e9)
    short, long = chosen(digits_root, "budget.seconds=2"), chosen(digits_root, "budget.seconds=1000000")
    assert short.config.batch_size < long.config.batch_size
    assert short.config.schedule.max_epochs is None
    assert "epochs" not in short.reasons
    assert long.config.schedule.max_epochs == pytest.approx(100 * math.sqrt(45_000 / 1438), rel=0.01)
    assert long.config.tta.shift == 1
    assert long.config.augment.cutout.size == 3, "large networks that see the images often get harder ones"
    assert short.config.augment.cutout.size == 0
    slow = chosen(digits_root, "budget.seconds=0.05")
    assert slow.config.tta.shift == 0, "views that would take more than a tenth of the budget are left out"


@pytest.mark.parametrize("devices", [1, 2])
def test_devices_share_the_work(speed, digits_root, devices):
    speed(1e9)
    given = (f"trainer.devices={devices}", "trainer.strategy=ddp", "budget.seconds=200")
    config = chosen(digits_root, *given).config
    assert config.batch_size % (config.micro_batch_size * devices) == 0
    alone = chosen(digits_root, f"budget.seconds={200 * devices}").config
    assert WIDTHS.index(config.model.widths) == WIDTHS.index(alone.model.widths)


def test_mirrored_digits_are_other_digits_and_symmetric_ones_are_not(digits_root):
    train, _ = load("digits", Path(digits_root))
    plain, mirrored = flip_accuracy(train, MODEL_SIZES[0].network, CPU, images=10_000)
    assert plain > 0.8
    assert mirrored < 0.7 * plain
    both = train.images.astype(np.uint16)
    symmetric = dataclasses.replace(train, images=((both + both[:, :, ::-1]) // 2).astype(np.uint8))
    plain, mirrored = flip_accuracy(symmetric, MODEL_SIZES[0].network, CPU, images=10_000)
    assert mirrored == pytest.approx(plain, abs=0.01)


def test_mirrored_images_are_tried_where_there_is_time(speed, digits_root):
    speed(1e9)
    choice = chosen(digits_root, "budget.seconds=200", "choose=[flip]")
    assert choice.config.dataset.flip == 0
    assert choice.reasons["flip"].startswith("no, as a small network knows")
    assert chosen(digits_root, "budget.seconds=20", "choose=[flip]").reasons == choice.reasons, "it is known now"


@pytest.mark.parametrize(("mirrored", "short", "long"), [(0.8, True, True), (0.6, False, True), (0.4, False, False)])
def test_images_unlike_their_mirror_images_are_mirrored_if_there_is_time(
    speed, digits_root, monkeypatch, mirrored, short, long
):
    """By what a small network knows of them: of images as they are, 80 %."""
    monkeypatch.setattr(best._Chooser, "_mirrored", lambda self: [0.8, mirrored])
    speed(2e10)
    for seconds, wanted in ((0.5, short), (2000, long)):
        choice = chosen(digits_root, f"budget.seconds={seconds}")
        assert (choice.config.dataset.flip > 0) == wanted, choice.reasons
        assert (choice.config.augment.flip.probability > 0) == wanted
        assert ("mirrored" in choice.reasons["augment"]) == wanted
        assert choice.reasons["flip"].startswith("yes" if wanted else "no")


def test_a_smaller_network_may_win_by_mirrored_images_that_it_has_time_for(speed, digits_root, monkeypatch):
    """Against a plain search among all networks, for images that are unlike their mirror images."""
    monkeypatch.setattr(best._Chooser, "_mirrored", lambda self: [0.8, 0.6])
    train, test = load("digits", Path(digits_root))
    train = train.take(np.tile(np.arange(len(train)), 30))
    data = Splits(train, test.take(np.arange(0)), test)
    smaller = 0
    for operations in np.geomspace(1e10, 1e11, 20):
        speed(operations, parts=0)
        given = ("budget.seconds=500", "batch_size=125", "tta.flip=false", "tta.shift=0", "data_pruning=0")
        choice = chosen(digits_root, *given, data=data)
        errors, mirrored = [], []
        for size in MODEL_SIZES:
            seconds = image_seconds(size, operations)
            images = images_seen(500, seconds, len(train), len(test))
            epochs = images / len(train)
            mirrored.append(epochs >= 8)
            gain = 0.08 * min(1, math.log2(epochs / 8)) if epochs >= 8 else 0
            errors.append(error_by_the_law(size, images) - gain)
        at = least(errors)
        assert choice.config.model.widths == WIDTHS[at]
        assert (choice.config.dataset.flip > 0) == mirrored[at]
        unmirrored = chosen(digits_root, *given, "dataset.flip=0", data=data).config.model.widths
        smaller += WIDTHS.index(choice.config.model.widths) < WIDTHS.index(unmirrored)
    assert smaller > 0


def test_a_network_may_win_by_images_that_rest(speed, digits_root, monkeypatch):
    """Against a plain search among all networks, for images that may be mirrored."""
    monkeypatch.setattr(best._Chooser, "_mirrored", lambda self: [0.8, 0.8])
    train, test = load("digits", Path(digits_root))
    train = train.take(np.tile(np.arange(len(train)), 30))
    data = Splits(train, test.take(np.arange(0)), test)
    others = 0
    for operations in np.geomspace(1e9, 2e11, 40).tolist():
        speed(operations, parts=0)
        given = ("budget.seconds=500", "batch_size=125", "tta.flip=false", "tta.shift=0")
        choice = chosen(digits_root, *given, data=data)
        seconds = [image_seconds(size, operations) for size in MODEL_SIZES]
        errors, skip_schedule = [], []
        for at, size in enumerate(MODEL_SIZES):
            images = images_seen(500, seconds[at], len(train), len(test))
            # The network that marks learns from each image once, and is asked about it.
            marked = 4 / 3 * len(train) * seconds[1] <= 0.06 * 500
            skip_schedule.append(at in (2, 3) and 5 <= images / len(train) <= 40 and marked)
            errors.append(error_by_the_law(size, images) - 0.03 * skip_schedule[at])
        at = least(errors)
        assert choice.config.model.widths == WIDTHS[at]
        assert (choice.config.data_pruning > 0) == skip_schedule[at]
        others += chosen(digits_root, *given, "data_pruning=0", data=data).config.model != choice.config.model
    assert others > 0


def test_a_batch_larger_than_the_data_set_is_no_obstacle(command):
    """Unless it is asked for."""
    given = ("experiment=best", "dataset=digits", "dataset.holdout=0.9", "budget.seconds=5", "dry_run=true")
    assert command("train", *given).code == 0
    assert "batch_size=512 is not possible" in command("train", *given, "batch_size=512").err


def test_a_run_says_what_was_chosen_and_goes_on_with_it(command, tmp_path):
    given = ("experiment=best", "dataset=digits", "budget.seconds=6", "resume=auto", "outputs=runs")
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    assert "chosen: model" in ended.out
    assert "chosen: flip" in ended.out
    folder = next(tmp_path.glob("runs/digits/*"))
    results = json.loads((folder / "results.json").read_text())
    assert results["stop_reason"] in ("budget", "epochs")
    assert results["accuracy_tta"] > 0.9
    assert results["hparams"]["model.widths"] in WIDTHS
    results["stop_reason"] = "interrupt"
    (folder / "results.json").write_text(json.dumps(results))
    assert "going on in" in command("train", *given).out


def test_nothing_can_be_chosen_without_a_budget(command):
    ended = command("train", "experiment=best", "dataset=digits", "budget.seconds=null", "schedule.max_epochs=1")
    assert ended.code == 1
    assert ended.err.strip().count("\n") == 0
    assert "give seconds" in ended.err
    ended = command("train", "experiment=best", "dataset=digits", "choose=[modle]")
    assert ended.code == 1
    assert "did you mean model?" in ended.err


def test_the_stream_of_a_choice_can_be_written_before(command, tmp_path):
    given = ("experiment=best", "dataset=digits", "budget.seconds=20", "stream.epochs=2")
    ended = command("precompute", *given)
    assert ended.code == 0, ended.err
    ended = command("train", *given, "dry_run=true")
    assert ended.code == 0
    assert "chosen: model" in ended.out
