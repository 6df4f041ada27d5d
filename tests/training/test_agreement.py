"""Sums and means over ranks, in one exchange each, on the device that trains."""

import pytest
import torch

from fastconv.training.agreement import average_over_ranks, sum_over_ranks

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
