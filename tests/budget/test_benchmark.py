"""Benchmarks of networks, and what a network needs at least, known before it is measured."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, benchmark, measure_speed
from fastconv.budget.bounds import is_plausible, least_needs, operations_per_second
from fastconv.budget.hardware import Device, cpu_prefers_bf16, prepare
from fastconv.config.schema import Trainer
from fastconv.models import build_model, count_parameters
from fastconv.system.distributed import VARIABLE
from fastconv.system.errors import RunWarning


def device(precision: str) -> Device:
    return Device("cpu", "a processor", precision, threads=1, keep_memory=False, compile=False)


def key(micro_batch_size: int, batch_size: int = 96) -> BenchmarkKey:
    return BenchmarkKey("davidnet", {"width": 8}, (16, 16, 3), 10, batch_size, micro_batch_size, True, "sgd")


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_operations_are_those_of_a_forward_pass(large):
    counter = FlopCounterMode(display=False)
    with counter:
        build_model("davidnet", 3, 10, width=8)(torch.randn(96, 3, 16, 16))
    assert least_needs(key(48), device("fp32"), large)[1] == counter.get_total_flops()


class Tokens(torch.nn.Module):
    """Linear layers of each token, an embedding, and a layer that returns two tensors."""

    def __init__(self, channels, classes):
        super().__init__()
        self.places = torch.nn.Embedding(64, 48)
        self.patches, self.mix = torch.nn.Conv2d(channels, 48, 2, 2), torch.nn.Linear(48, 192)
        self.attention, self.head = Pair(192), torch.nn.Linear(192, classes)

    def forward(self, images):
        if images.isnan().any():  # tensors without memory cannot say it
            raise ValueError("not a number")
        tokens = self.patches(images).flatten(2).mT + self.places(torch.arange(64, device=images.device))
        return self.head(self.attention(self.mix(tokens))[0].mean(1))


class Pair(torch.nn.Linear):
    """Of its kind in name only: it scales, and returns more than its result."""

    def __init__(self, width):
        super().__init__(width, 1, bias=False)

    def forward(self, tokens):
        return tokens * self.weight, tokens


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_operations_of_tokens_are_those_of_a_forward_pass(large):
    counter = FlopCounterMode(display=False)
    with counter:
        Tokens(3, 10)(torch.randn(96, 3, 16, 16))
    own = dataclasses.replace(key(48), settings={"_target_": f"{__name__}.Tokens"})
    assert least_needs(own, device("fp32"), large)[1] == counter.get_total_flops()


class OwnConvolutions(torch.nn.Module):
    """Convolutions that are no layers of torch, and a linear layer with hardly any of the operations."""

    def __init__(self, channels, classes):
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(64, channels, 3, 3))
        self.second = torch.nn.Parameter(torch.randn(64, 64, 3, 3))
        self.head = torch.nn.Linear(64, classes)

    def forward(self, images):
        maps = F.conv2d(F.conv2d(images, self.first, padding=1).relu(), self.second, padding=1)
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_operations_of_which_few_are_counted_are_unknown(large):
    """The linear layer alone would say that a true benchmark of this network is a thousand times too slow."""
    own = dataclasses.replace(key(48), settings={"_target_": f"{__name__}.OwnConvolutions"})
    assert least_needs(own, device("fp32"), large)[1] == 0


def test_a_network_without_known_layers_is_believed(tmp_path):
    assert is_plausible(1.0, 0, device("fp32"), tmp_path)
    assert not is_plausible(1e-9, 10**9, device("fp32"), tmp_path)


@pytest.mark.parametrize("large", [0, 2**40], ids=["without memory", "computed"])
def test_memory_is_between_that_of_the_convolutions_and_of_all_layers(large):
    model = build_model("davidnet", 3, 10, width=8)
    sizes = {"convolutions": 0, "all": 0}

    def note(layer, inputs, output):
        sizes["all"] += output.numel()
        sizes["convolutions"] += output.numel() * isinstance(layer, torch.nn.Conv2d)

    for layer in model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    model(torch.randn(48, 3, 16, 16))
    weights = 12 * count_parameters(model)  # the weights, their gradients and momenta, four bytes each
    whole, half = (least_needs(key(48), device(precision), large)[0] - weights for precision in ("fp32", "bf16"))
    assert 4 * sizes["convolutions"] < whole < 4 * sizes["all"]
    assert 0.5 * whole <= half < 0.8 * whole
    assert least_needs(key(96), device("fp32"), large)[0] - weights == pytest.approx(2 * whole, rel=0.01)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """A CPU whose matrix products take 1e9 operations a second: the step of `key(48)` takes `LEAST` seconds there."""
    monkeypatch.setattr("fastconv.budget.bounds._product", lambda device: 1e9)
    monkeypatch.setattr("fastconv.budget.bounds._fastest", {})


# Seconds of a step of `key(48)` at the speed of a matrix product.
LEAST = 3 * least_needs(key(48), device("fp32"))[1] / 1e9


def measured(tmp_path, seconds, repeats=1, **given):
    """The outcome of a benchmark whose step takes the next of these seconds each time that it is made."""

    def measure(key: BenchmarkKey, device: Device) -> SpeedProfile:
        return SpeedProfile(next(seconds), 0.1, 100.0, **given)

    return benchmark(key(48), device("fp32"), tmp_path, repeats=repeats, measure=measure)


def test_the_fastest_of_several_benchmarks_counts(tmp_path):
    seconds = iter([3.0, 2.5, 2.9])
    found = [measured(tmp_path, seconds, repeats).step_seconds for repeats in (1, 1, 2, 2, 1)]
    assert found == [3, 3, 2.5, 2.5, 2.5]
    assert measured(tmp_path, seconds, 3).step_seconds == 2.5
    assert not list(seconds)


@pytest.mark.parametrize(
    ("seconds", "repeats", "found"),
    [
        ([900.0, 1.0, 1.2], 2, 1.0),  # the first was disturbed
        ([0.1, 1.0, 1.2], 2, 1.0),  # and here it cannot be true
        ([2.0, 1.0, 4.0, 1.1], 2, 1.0),
        ([2000 * LEAST, 3.0, 3.2], 1, 3.0),  # far slower than a matrix product
        ([LEAST / 5, 3.0, 3.2], 1, 3.0),  # faster than a matrix product
    ],
)
def test_a_benchmark_that_cannot_be_true_is_made_again(tmp_path, seconds, repeats, found):
    left = iter(seconds)
    profile = measured(tmp_path, left, repeats)
    assert (profile.step_seconds, profile.is_steady, list(left)) == (found, True, [])
    assert measured(tmp_path, iter([])) == profile, "kept"


@pytest.mark.parametrize(
    ("seconds", "given"),
    [([1.0, 2.0, 4.0, 8.0, 16.0], {}), ([3.0], {"spread": 3.0, "benchmark_seconds": 100.0}), ([1e6] * 4, {})],
    ids=["benchmarks disagree", "the times of one disagree", "impossible"],
)
def test_a_benchmark_that_is_never_confirmed_is_not_kept(tmp_path, seconds, given):
    left = iter(seconds)
    profile = measured(tmp_path, left, 2 if len(seconds) == 5 else 1, **given)
    assert (profile.step_seconds, profile.is_steady, list(left)) == (min(seconds), False, [])
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("product-")]


@pytest.mark.parametrize("place", ["folder", "benchmark"])
def test_a_benchmark_that_cannot_be_kept_counts_all_the_same(tmp_path, place):
    if place == "folder":
        cache = tmp_path / "a file"
        cache.touch()
    else:  # a folder lies in its place
        path, cache = Path(measured(tmp_path, iter([3.0])).path), tmp_path
        path.unlink()
        path.mkdir()
    with pytest.warns(RunWarning, match="a measurement is not kept"):
        assert measured(cache, iter([2.0])).step_seconds == 2


HUGE = 10**400
DAMAGED = {
    "repeats": ["1", None, float("nan"), [1], {}, 0, -1, True, 1.5, HUGE],
    "speed_profile": ["x", None, [], {}, {"step_seconds": 1.0}],
    "step_seconds": ["1", None, float("nan"), float("inf"), 0, -1.0, True, [], HUGE],
    "score_seconds": ["1", None, float("nan"), float("inf"), 0, -1.0],
    "memory_mb": ["1", None, float("nan"), -1.0],
    "update_seconds": ["1", float("nan"), -1.0, 3.0, 1e9],  # the whole step, and more
    "is_steady": ["yes", 1, False],
    "other": [1],
}


def changed(content, name, value):
    at = content if name in content else content["speed_profile"]
    at[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DAMAGED.items() for value in values])
def test_a_kept_benchmark_with_damaged_values_is_made_again(tmp_path, name, value):
    path = Path(measured(tmp_path, iter([3.0])).path)
    whole = path.read_text()
    path.write_text(changed(json.loads(whole), name, value))
    assert measured(tmp_path, iter([2.0])).step_seconds == 2
    assert measured(tmp_path, iter([])).step_seconds == 2, "kept"


def deep(path):
    path.write_text("[" * 100_000)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def no_object(path):
    path.write_text("[1]")


@pytest.mark.parametrize("damage", [deep, pipe, no_object])
def test_kept_files_that_are_no_benchmark_are_written_anew(tmp_path, damage):
    measured(tmp_path, iter([3.0]))
    kept = list(tmp_path.glob("*.json"))
    assert {path.name.startswith("product-") for path in kept} == {True, False}
    for path in kept:
        damage(path)
    assert measured(tmp_path, iter([2.0])).step_seconds == 2
    assert all(json.loads(path.read_text()) for path in kept)


@pytest.mark.parametrize("value", [HUGE, "x", None, float("nan"), float("inf"), -1.0, True, 1e300])
def test_a_speed_of_the_machine_that_cannot_be_is_measured_anew(tmp_path, value):
    measured(tmp_path, iter([3.0]))
    (path,) = tmp_path.glob("product-*.json")
    path.write_text(json.dumps({"operations_per_second": value}))
    assert operations_per_second(device("fp32"), tmp_path) == 1e9
    assert json.loads(path.read_text())["operations_per_second"] == 1e9


def test_a_kept_benchmark_that_cannot_be_true_is_made_again(tmp_path):
    """As an earlier version may have kept it."""
    path = measured(tmp_path, iter([3.0])).path
    content = json.loads(Path(path).read_text())
    content["speed_profile"]["step_seconds"] = 3.3e4
    for name in ("spread", "is_steady", "path"):
        del content["speed_profile"][name]
    Path(path).write_text(json.dumps(content))
    assert measured(tmp_path, iter([3.0])).step_seconds == 3


def test_what_the_first_benchmark_takes_beyond_the_others_is_kept(monkeypatch, tmp_path):
    """It takes 2 s, on a simulated clock, of which 1.2 s would be taken by any."""
    now, steps = 0.0, iter([3.0, 2.1])

    def measure(key: BenchmarkKey, device: Device) -> SpeedProfile:
        nonlocal now
        now += 2
        return SpeedProfile(next(steps), 0.1, 100.0, benchmark_seconds=1.2)

    monkeypatch.setattr("fastconv.budget.benchmark.time.perf_counter", lambda: now)
    for repeats in (1, 2):
        profile = benchmark(key(48), device("fp32"), tmp_path, repeats=repeats, measure=measure)
        assert profile.first_seconds == pytest.approx(0.8)
    assert profile.step_seconds == 2.1


def test_a_damaged_measurement_is_made_anew(tmp_path):
    kept = measured(tmp_path, iter([3.0]))
    assert measured(tmp_path, iter([2.0])) == kept
    Path(kept.path).write_text('{"speed_profile": {"step')
    assert measured(tmp_path, iter([2.0])).step_seconds == 2


def test_the_random_state_stays():
    before = torch.get_rng_state()
    least_needs(key(48), device("fp32"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor has, and the seconds of its products in bf16 and fp32, by turns; None if none is made."""

    def has(amx: bool, avx512: bool, seconds: list[float] | None) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        passed = itertools.chain.from_iterable((0.0, each) for each in itertools.cycle(seconds or ()))
        ends = itertools.accumulate(passed)
        monkeypatch.setattr("fastconv.budget.hardware.time.perf_counter", lambda: next(ends))

    cpu_prefers_bf16.cache_clear()
    yield has
    cpu_prefers_bf16.cache_clear()


@pytest.mark.parametrize(
    ("amx", "avx512", "seconds", "precision"),
    [
        (False, False, None, "fp32"),
        (True, True, None, "bf16"),
        (False, True, [2.0, 1.0], "fp32"),
        (False, True, [1.0, 2.0], "bf16"),
        (False, True, [9.0, 2.0, 1.0, 2.0], "bf16"),  # the first is slow
    ],
)
def test_precision_is_the_faster_one(monkeypatch, processor, amx, avx512, seconds, precision):
    monkeypatch.delenv(VARIABLE, raising=False)
    processor(amx, avx512, seconds)
    assert prepare(Trainer(accelerator="cpu")).precision == precision


def test_all_ranks_have_the_precision_of_the_first(monkeypatch, processor):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(VARIABLE, json.dumps({"bf16": True}))
    processor(False, True, [2.0, 1.0])
    assert prepare(Trainer(accelerator="cpu")).precision == "bf16"


@pytest.mark.parametrize(("seconds", "calls"), [(0.1, 6), (1.0, 4), (5.0, 1)])
def test_a_large_network_is_timed_over_one_micro_batch(monkeypatch, seconds, calls):
    now, made = 0.0, []

    def loss(*given):
        nonlocal now
        now += seconds
        made.append(now)
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr("fastconv.budget.benchmark.time.perf_counter", lambda: now)
    monkeypatch.setattr("fastconv.budget.benchmark.F.cross_entropy", loss)
    key = BenchmarkKey("davidnet", {"width": 8}, (8, 8, 1), 3, 16, 8, True, "sgd")
    profile = measure_speed(key, Device("cpu", "a", "fp32", 1, False, False))
    assert len(made) == calls
    assert profile.step_seconds == pytest.approx(2 * seconds)
