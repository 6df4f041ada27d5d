"""GPUs that are not here: NVIDIA's and Apple's behind the same functions, told apart by their kind alone."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch
from bare_loop import plan
from harness import SMALL
from lightning.fabric.accelerators.mps import MPSAccelerator as FabricsAccelerator
from lightning.pytorch.accelerators import MPSAccelerator

from fastconv.budget.benchmark import forget_peak_memory, peak_memory_mb
from fastconv.budget.hardware import prepare
from fastconv.budget.steps_ahead import StepsAhead
from fastconv.config.schema import Trainer
from fastconv.system.errors import InputError
from fastconv.system.gpu import find_gpu, recorded_event, synchronize
from fastconv.training.train_scores import PendingScores
from fastconv.training.trainer import make_trainer


@pytest.fixture
def calls(monkeypatch):
    """A machine of Apple's; the calls of its GPU's functions."""
    calls = []

    class Event:
        done = False

        def record(self):
            calls.append("record")

        def query(self):
            return self.done

        def synchronize(self):
            calls.append("wait")
            self.done = True

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2")
    monkeypatch.setattr(torch.mps, "Event", Event, raising=False)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10_000_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3_000_000)
    return calls


def test_apples_gpu_is_found(calls):
    device = prepare(Trainer())
    assert (device.kind, device.name, device.precision) == ("mps", "Apple M2 GPU", "fp32")
    assert not device.compile
    assert not device.keep_memory
    assert not device.winograd
    assert device.free_memory() == 7_000_000
    forget_peak_memory()
    assert peak_memory_mb(device.kind) == 3.0
    assert prepare(Trainer(accelerator="gpu")).kind == "mps"
    assert prepare(Trainer(accelerator="cpu")).kind == "cpu"


def test_nvidias_is_preferred_and_none_is_none(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_gpu() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_gpu() is None


def test_apple_has_one(calls):
    with pytest.raises(InputError, match=r"trainer.devices=2 is not possible: torch finds 1 GPU here\. Use fewer"):
        prepare(Trainer(devices=2))


def test_the_devices_of_other_nodes_are_not_here():
    cores = os.cpu_count() or 1
    most = max(2, cores)
    assert prepare(Trainer(accelerator="cpu", devices=most, nodes=64)).kind == "cpu"
    with pytest.raises(InputError, match=f"this machine has {cores} CPU cores"):
        prepare(Trainer(accelerator="cpu", devices=most + 1, nodes=64))


def test_the_host_waits_for_a_step_that_is_too_far_behind(calls):
    ahead, device = StepsAhead(most=2), torch.device("mps")
    for _ in range(3):
        ahead.add(device)
    assert calls == ["record"] * 3 + ["wait"]
    assert ahead.count == 2
    synchronize(device)
    assert calls[-1] == "synchronize"
    cpu = torch.device("cpu")
    synchronize(cpu)
    assert recorded_event(cpu) is None
    assert len(calls) == 5


def test_scores_are_read_when_they_are_there(calls):
    sums = SimpleNamespace(device=torch.device("mps"), clone=lambda: torch.tensor([6.0, 1.0, 4.0]))
    scores = PendingScores.of(sums)
    assert not scores.is_ready()
    assert scores.read() == (1.5, 0.25)
    assert calls == ["record", "wait"]


def test_lightning_trains_on_it(calls, digits_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    run = plan("dataset=digits", *SMALL, "trainer.winograd=off", "stream=online")
    run = dataclasses.replace(run, device=dataclasses.replace(run.device, kind="mps"))
    for accelerator in (MPSAccelerator, FabricsAccelerator):
        monkeypatch.setattr(accelerator, "is_available", lambda: True)
    trainer = make_trainer(run, [], [])
    assert isinstance(trainer.accelerator, MPSAccelerator)
    assert trainer.strategy.root_device.type == "mps"
