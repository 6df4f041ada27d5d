"""Winograd's convolutions as the settings of the hardware: where they are used, and what the user is told."""

from types import SimpleNamespace

import pytest
import torch
from harness import SMALL, only_run, same_weights, stop_at

from fastconv.budget import hardware
from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, benchmark
from fastconv.budget.hardware import Device, prepare
from fastconv.config.schema import Trainer
from fastconv.kernels import norm_gelu, winograd, winograd_speed
from fastconv.runs.results import Results
from fastconv.system.errors import InputError, RunWarning

# Digits, with layers that are large enough.
LARGE = ("dataset=digits", "model.width=16", "batch_size=64", "micro_batch_size=64", "trainer=cpu",
         "trainer.precision=fp32", "budget.seconds=null", "schedule.max_epochs=0.2", "stream=online")  # fmt: skip


@pytest.fixture
def possible():
    if why := winograd.obstacle():
        pytest.skip(why)


def fp32(**settings):
    return Trainer(accelerator="cpu", precision="fp32", **settings)


def test_auto_uses_them_where_they_are_faster(possible, monkeypatch):
    """That is known of some instructions, and measured of all others."""
    for instructions, faster, used in (("AVX2", False, True), ("DEFAULT", True, True), ("DEFAULT", False, False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda instructions=instructions: instructions)
        monkeypatch.setattr(winograd_speed, "is_faster", lambda faster=faster: faster)
        assert prepare(fp32()).winograd is winograd.uses_winograd() is used
        assert prepare(fp32(winograd="on")).winograd is winograd.uses_winograd() is True
        assert prepare(fp32(winograd="off")).winograd is winograd.uses_winograd() is False


@pytest.mark.parametrize(
    ("instructions", "has_amx", "used"), [("AVX2", False, False), ("AVX512", False, True), ("AVX512", True, False)]
)
def test_auto_uses_them_in_bf16_where_direct_ones_are_slower(monkeypatch, instructions, has_amx, used):
    """AMX makes direct ones several times as fast as AVX-512 does."""
    monkeypatch.setattr(winograd, "obstacle", lambda *_: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert prepare(Trainer(accelerator="cpu", precision="bf16")).winograd is used
    assert prepare(Trainer(accelerator="cpu", precision="bf16", winograd="on")).winograd
    assert not prepare(Trainer(accelerator="cpu", precision="bf16", winograd="off")).winograd


def test_a_processor_without_bf16_cannot_use_them_in_bf16(monkeypatch):
    monkeypatch.setattr(winograd.winograd_library, "load", lambda: SimpleNamespace(fastconv_has_bf16=lambda: 0))
    winograd.obstacle.cache_clear()
    try:
        with pytest.raises(InputError, match="in bf16 they need a processor with AVX-512's instructions for it"):
            prepare(Trainer(accelerator="cpu", precision="bf16", winograd="on"))
    finally:
        winograd.obstacle.cache_clear()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"precision": "bf16"}, "there is no C compiler, such as gcc"),
        ({"precision": "fp32", "channels_last": False}, "it needs trainer.channels_last=true"),
        ({"precision": "fp32"}, "there is no C compiler, such as gcc"),
    ],
)
def test_where_they_are_not_possible_on_fails_and_auto_does_without(monkeypatch, settings, why):
    monkeypatch.setattr(winograd, "obstacle", lambda *_: "there is no C compiler, such as gcc")
    with pytest.raises(InputError) as failed:
        prepare(Trainer(accelerator="cpu", winograd="on", **settings))
    assert str(failed.value) == f"trainer.winograd=on is not possible: {why}. Use trainer.winograd=auto"
    assert not prepare(Trainer(accelerator="cpu", **settings)).winograd
    assert not winograd.uses_winograd()


def test_the_plan_and_the_results_say_what_is_used(possible, command, tmp_path, monkeypatch):
    ended = command("train", *LARGE, "trainer.winograd=on")
    assert ended.code == 0, ended.err
    assert "Winograd in 5 convolutions" in ended.out
    results = Results.read(only_run(tmp_path))
    assert results.winograd_layers == 5
    assert results.hparams["trainer.winograd"] == "on"
    with monkeypatch.context() as patch:
        patch.setattr(norm_gelu, "obstacle", lambda *_: "there is no C compiler, such as gcc")
        ended = command("train", *LARGE, "trainer.winograd=on", "dry_run=true")
        assert "computed by torch, one after the other: there is no C compiler, such as gcc" in " ".join(
            ended.out.split()
        )
    monkeypatch.setattr(winograd, "obstacle", lambda *_: "there is no C compiler, such as gcc")
    monkeypatch.setattr(winograd_speed, "is_measured", lambda *_: True)
    ended = command("train", *LARGE, "dry_run=true")
    assert "no Winograd convolutions: there is no C compiler, such as gcc" in ended.out
    ended = command("train", *LARGE, "trainer.winograd=on")
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_small_runs_are_direct(possible, command):
    ended = command("train", "dataset=digits", *SMALL, "dry_run=true", "trainer.winograd=on")
    assert ended.code == 0, ended.err
    assert "Winograd" not in ended.out


def test_a_run_with_them_goes_on_as_if_nothing_had_happened(possible, command, tmp_path, monkeypatch):
    assert command("train", *LARGE, "trainer.winograd=on", "outputs=whole").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *LARGE, "trainer.winograd=on", "outputs=stopped").code == 143
    assert command("train", *LARGE, "trainer.winograd=on", "outputs=stopped", "resume=auto").code == 0
    runs = [only_run(tmp_path / name) for name in ("whole", "stopped")]
    assert same_weights(*runs)
    assert [Results.read(run).winograd_layers for run in runs] == [5, 5]


@pytest.mark.slow
def test_a_run_that_goes_on_without_them_says_so(possible, command, tmp_path, monkeypatch):
    settings = (*LARGE, "trainer.winograd=auto", "checkpoint.every=null")
    monkeypatch.setattr(winograd_speed, "is_measured", lambda *_: True)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *settings).code == 143
    monkeypatch.setattr(winograd_speed, "is_measured", lambda *_: False)
    monkeypatch.setattr(winograd_speed, "is_faster", lambda: False)
    with pytest.warns(RunWarning, match="began with winograd_layers=5 and goes on with winograd_layers=0, so"):
        assert command("train", *settings, "resume=auto").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(winograd_speed, "is_measured", lambda *_: True)
        whole = command("train", *settings, "outputs=whole")
    assert whole.code == 0
    assert not same_weights(only_run(tmp_path / "whole"), only_run(tmp_path / "outputs"))


def test_a_run_that_goes_on_with_other_norms_says_so(possible, command, tmp_path, monkeypatch):
    """Also if no layer of its network suits Winograd's convolutions."""
    settings = (*LARGE[:1], *LARGE[2:], "model=airbench", "model.widths=[8,8,8]", "trainer.winograd=auto")
    monkeypatch.setattr(winograd_speed, "is_measured", lambda *_: True)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *settings).code == 143
    results = Results.read(only_run(tmp_path))
    assert (results.winograd_layers, results.fused_norms) == (0, True)
    monkeypatch.setattr(winograd_speed, "is_measured", lambda *_: False)
    monkeypatch.setattr(winograd_speed, "is_faster", lambda: False)
    with pytest.warns(RunWarning, match="began with fused_norms=True and goes on with fused_norms=False, so"):
        assert command("train", *settings, "resume=auto").code == 0


def test_benchmarks_with_and_without_are_kept_apart(possible, tmp_path, monkeypatch):
    monkeypatch.setattr("fastconv.budget.benchmark.is_plausible", lambda *_: True)
    key = BenchmarkKey("davidnet", {"width": 4}, (8, 8, 1), 10, 32, 32, True, "sgd")
    measured = []

    def measure(key, device):
        measured.append(device.winograd)
        return SpeedProfile(1.0 + device.winograd, 0.1, 100.0)

    for _ in range(2):
        for setting in ("on", "off"):
            found = benchmark(key, prepare(fp32(winograd=setting)), tmp_path, measure=measure)
            assert found.step_seconds == 1.0 + (setting == "on")
    assert measured == [True, False]


def test_a_container_has_the_memory_of_its_limit(monkeypatch):
    """The system tells what the machine has."""
    device = Device("cpu", "a processor", "fp32", 1, keep_memory=False, compile=False)
    monkeypatch.setattr(hardware, "memory_left", lambda: None)
    machine = device.free_memory()
    for left, free in ((5, 5), (2**62, machine)):
        monkeypatch.setattr(hardware, "memory_left", lambda left=left: left)
        assert free is None or device.free_memory() == pytest.approx(free, rel=0.5)
