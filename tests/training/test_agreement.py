"""Sums and means over ranks, in one exchange each, on the device that trains; and the group by which ranks agree."""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness import SHORT

from fastconv.training.agreement import Agreement, average_over_ranks, sum_over_ranks

# A type stands for the device, since there is no other one here: `Tensor.to` takes both.
TRAINS = torch.float64


@pytest.fixture
def exchanges(monkeypatch):
    """The sizes of what two ranks exchange; the other one has the same tensors plus one."""
    sizes = []

    def all_reduce(tensor):
        assert tensor.dtype == TRAINS, "the group exchanges tensors of the device that trains only, as NCCL does"
        sizes.append(len(tensor))
        tensor += tensor + 1

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    return sizes


def test_a_sum_is_a_new_tensor(exchanges):
    own = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(own, TRAINS).tolist() == [3.0, 5.0]
    assert sum_over_ranks(own.to(TRAINS), TRAINS).tolist() == [3.0, 5.0]
    assert own.tolist() == [1.0, 2.0]


def test_means_of_all_tensors_take_one_exchange(exchanges):
    tensors = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor(5.0), torch.ones(3)]
    expected = [(each + 0.5).clone() for each in tensors]
    average_over_ranks(tensors, TRAINS)
    assert exchanges == [8]
    for found, mean in zip(tensors, expected, strict=True):
        torch.testing.assert_close(found, mean)
    average_over_ranks([], TRAINS)
    assert exchanges == [8]


@pytest.fixture
def group():
    """The process group of a run of one rank."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def held():
    """Threads and open files of this process."""
    gc.collect()
    return [len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd")]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_closed_agreement_holds_no_threads_and_no_connections(group):
    before, agreement = held(), Agreement()
    for _ in range(3):
        agreement.open()
        agreement.ask("name", lambda: [2.0])
        assert agreement.found == {"name": [2.0]}
        assert held()[0] > before[0]
        agreement.clear()
        agreement.close()
        assert all(now <= was for now, was in zip(held(), before, strict=True))
    agreement.close()
    Agreement().close()


def test_numbers_on_their_way_are_not_waited_for(group):
    """As on a rank that fails by itself: the others may never take part."""
    agreement = Agreement()
    agreement.open()
    agreement._work = SimpleNamespace(is_completed=lambda: False)
    groups = len(torch.distributed.distributed_c10d._world.pg_map)
    agreement.close()
    assert len(torch.distributed.distributed_c10d._world.pg_map) == groups


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_closes_it(command, monkeypatch, fails):
    """Also one that fails: another run may follow in this process."""
    closed = []
    monkeypatch.setattr(Agreement, "close", lambda self: closed.append(self))
    if fails:
        monkeypatch.setattr("fastconv.training.fit.score", lambda *_: 1 / 0)
    try:
        command("train", "dataset=digits", *SHORT)
    except ZeroDivisionError:
        assert fails
    assert len(closed) == 1
