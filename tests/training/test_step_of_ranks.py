"""A step of one of two ranks: what it calls and sends, counted beside plain Lightning's DDP. No speed is measured."""

import os
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from ranks import count
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastconv.models import build_model
from fastconv.system import rank_store
from fastconv.system.errors import SharedError
from fastconv.training.gradient_exchange import GradientExchange
from fastconv.training.module import ImageClassifier

# Bytes of what ranks decide at each step, at most: a few numbers.
DECISIONS = 128


@pytest.fixture
def one_of_two(monkeypatch, digits_root, tmp_path):
    """This process takes itself for the first of two ranks, but exchanges everything with nobody."""
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.chdir(tmp_path)
    connection = dist.HashStore()
    monkeypatch.setattr(rank_store, "_connection", lambda: connection)
    variables = {"TORCHELASTIC_RUN_ID": "test", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "2"}
    variables |= {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    with mock.patch.dict(os.environ, variables):
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        yield
        dist.destroy_process_group()


@pytest.mark.parametrize(("parts", "every"), [(1, 1000), (2, 1000), (1, 1)], ids=["a step", "parts", "with a row"])
def test_a_step_calls_and_sends_less_than_plain_lightnings(one_of_two, parts, every):
    """It sends gradients once, whatever the number of parts, with decisions, and sums for a row of the curves."""
    given = ("dataset=digits", "model.width=8", "batch_size=64", f"micro_batch_size={32 // parts}")
    found = count(*given, every=every)
    ours, plain = found["fastconv"], found["plain"]
    network = build_model("davidnet", channels=1, classes=10, width=8)
    gradients = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert ours["messages"] == 2 + (every == 1)
    assert gradients < ours["bytes"] <= gradients + DECISIONS
    assert ours["bytes"] <= plain["bytes"]
    assert ours["messages"] <= plain["messages"]
    if parts == 1:  # as plain Lightning's
        assert ours["functions"] < 0.5 * plain["functions"]


def test_ranks_do_not_share_their_sums(one_of_two):
    """They are added up over the ranks: those of a checkpoint, which the first rank reads, must not count twice."""
    module = ImageClassifier("davidnet", {"width": 4}, (8, 8, 1), ("a", "b"), (0.5,), (0.5,))
    wrapper = DistributedDataParallel(module)
    wrapper._assign_modules_buffers()
    shared = set(wrapper.named_module_buffers)
    assert {name for name, _ in module.named_buffers()} - shared == {"train_sums"}


@pytest.mark.parametrize("steps", [0, 2])
def test_parameters_that_the_loss_does_not_depend_on_are_named_in_that_step(one_of_two, steps):
    """Be it the first one or the last, after which torch would not notice it."""
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "spare": nn.Linear(2, 1), "frozen": nn.Linear(2, 1)})
    module["frozen"].requires_grad_(False)
    exchange, images = GradientExchange(DistributedDataParallel(module)), torch.ones(3, 2)

    def step(*names):
        module.zero_grad()
        exchange.prepare()
        sum(module[name](images).sum() for name in names).backward()
        exchange.check()

    for _ in range(steps):
        step("used", "spare")
    with exchange.accumulate():
        module["used"](images).sum().backward()
        exchange.check()
    with pytest.raises(SharedError, match=r"depend on spare\.weight, spare\.bias, but"):
        step("used")


def test_parameters_without_a_gradient_of_the_last_part_are_told_of(one_of_two):
    """Those that have a gradient of the part before it."""
    module = nn.ModuleDict({"used": nn.Linear(2, 1), "spare": nn.Linear(2, 1)})
    exchange, images = GradientExchange(DistributedDataParallel(module)), torch.ones(3, 2)
    with exchange.accumulate():
        (module["used"](images) + module["spare"](images)).sum().backward()
    exchange.prepare()
    module["used"](images).sum().backward()
    with pytest.raises(SharedError, match="does not depend on some parameters, but ranks"):
        exchange.check()


def test_parameters_that_all_have_gradients_pass(one_of_two):
    exchange = GradientExchange(DistributedDataParallel(layer := nn.Linear(2, 1)))
    for _ in range(2):
        exchange.prepare()
        layer(torch.ones(3, 2)).sum().backward()
        exchange.check()
