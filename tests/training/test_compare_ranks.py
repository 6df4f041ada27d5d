"""What ranks say of themselves before they train together."""

import torch

from fastconv.training.callbacks.compare_ranks import difference, digest_of

SAME = {"optimizer.max_lr": "0.1", "the precision": "bf16"}


def test_equal_ranks_have_no_difference():
    assert difference([("a", SAME), ("b", dict(SAME)), ("c", dict(SAME))]) == ""


def test_the_line_names_the_first_thing_that_differs_and_who_has_it():
    line = difference([("a", SAME), ("b", SAME), ("c", {**SAME, "the precision": "fp32"})])
    assert "the precision is fp32 in process 2 on c, but bf16 in process 0 on a" in line
    assert "\n" not in line


def test_a_setting_that_only_one_rank_has_differs():
    assert "augment.extra is not there in process 1" in difference([("a", {**SAME, "augment.extra": "x"}), ("b", SAME)])
    assert "augment.extra is x in process 1" in difference([("a", SAME), ("b", {**SAME, "augment.extra": "x"})])


def test_a_long_value_is_cut():
    line = difference([("a", {"key": "x" * 10_000}), ("b", {"key": "y"})])
    assert len(line) < 400


def test_the_digest_of_an_optimizer_follows_its_state():
    def stepped(gradient):
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        weight.grad = torch.full((3,), gradient)
        optimizer.step()
        return digest_of(optimizer.state_dict())

    assert stepped(1.0) == stepped(1.0)
    assert stepped(1.0) != stepped(1.0001)
