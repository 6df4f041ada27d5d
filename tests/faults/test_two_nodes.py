"""Two machines with separate disks train one run: fresh, killed, and resumed on both of them or on one."""

import os
import shutil
import signal

import pytest
import torch
from faults.two_nodes import torchrun, two_nodes, why_not
from harness import SMALL, only_run, rows, wait_for_steps, weights

from fastconv.runs.results import Results

STEPS = 100
RUN = (*SMALL, "dataset=digits", "trainer.devices=1", "trainer.strategy=ddp", "stream=online", "figures=false",
       "budget.seconds=null",
       f"schedule.max_epochs={STEPS * 64 / 1438}")  # fmt: skip
WHY_NOT = why_not()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "two nodes can be made")]


def finish(nodes, data, *overrides, shape="2", **settings):
    """Train on these nodes to the end, which must be a good one."""
    processes = [torchrun(node, shape, data, *RUN, *overrides, **settings) for node in nodes]
    for node, process in zip(nodes, processes, strict=True):
        assert process.wait(900) == 0, (node.folder / "err.txt").read_text()


def assert_same_weights(run, other, always_two=False):
    """The weights, and where two ranks have trained both runs throughout, the statistics of batch norm: another number
    of ranks sees them in other portions."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if (always_two or "running" not in name) and ours[name].is_floating_point():
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits_root):
    folder = tmp_path_factory.mktemp("undisturbed")
    with two_nodes(folder) as nodes:
        finish(nodes, digits_root)
    assert Results.read(only_run(folder / "first")).steps == STEPS
    assert not (folder / "second" / "outputs").exists()
    return only_run(folder / "first")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, digits_root):
    """The first machine's folder after both were switched off in the middle of a run."""
    folder = tmp_path_factory.mktemp("killed")
    record = folder / "record"
    record.mkdir()
    with two_nodes(folder) as nodes:
        processes = [torchrun(node, "2", digits_root, *RUN, "checkpoint.every=1", RECORD=str(record)) for node in nodes]
        ranks = wait_for_steps(record, 20)
        for victim in (*(process.pid for process in processes), *ranks.values()):
            os.kill(victim, signal.SIGKILL)
        for process in processes:
            process.wait(60)
    return folder / "first"


@pytest.mark.parametrize("count", [2, 1])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, digits_root, undisturbed, killed, count):
    with two_nodes(tmp_path) as nodes:
        shutil.copytree(killed / "outputs", tmp_path / "first" / "outputs")
        finish(nodes[:count], digits_root, "checkpoint.every=1", "resume=auto", shape=str(count))
    run = only_run(tmp_path / "first")
    found = Results.read(run)
    assert (found.steps, found.resumed, found.stop_reason) == (STEPS, 1, "epochs")
    assert_same_weights(run, undisturbed, always_two=count == 2)
    assert not (tmp_path / "second" / "outputs").exists()


def test_machines_that_differ_end_in_one_line(tmp_path, digits_root):
    with two_nodes(tmp_path) as nodes:
        processes = [
            torchrun(node, "2", digits_root, *RUN, f"optimizer.max_lr={lr}")
            for node, lr in zip(nodes, ("0.1", "0.2"), strict=True)
        ]
        assert [process.wait(900) for process in processes] == [1, 1]
    lines = [line for node in nodes for line in (node.folder / "err.txt").read_text().splitlines()]
    (told,) = [line for line in lines if line.startswith("fastconv: the processes")]
    assert "optimizer.max_lr is 0.2 in process 1" in told
    assert "0.1 in process 0" in told


def test_one_goes_on_alone_when_the_other_is_switched_off(tmp_path, digits_root, undisturbed):
    record = tmp_path / "record"
    record.mkdir()
    with two_nodes(tmp_path) as nodes:
        settings = {"RECORD": str(record)}
        first, second = (
            torchrun(node, "1:2", digits_root, *RUN, "checkpoint.every=1", restarts=3, **settings) for node in nodes
        )
        ranks = wait_for_steps(record, 20)
        for victim in (second.pid, ranks[1]):
            os.kill(victim, signal.SIGKILL)
        assert first.wait(900) == 0, (nodes[0].folder / "err.txt").read_text()
        second.wait(60)
    run = only_run(tmp_path / "first")
    found = Results.read(run)
    assert (found.steps, found.stop_reason) == (STEPS, "epochs")
    assert found.resumed >= 1
    assert_same_weights(run, undisturbed)


def test_a_machine_that_joins_takes_part(tmp_path, digits_root, undisturbed):
    record = tmp_path / "record"
    record.mkdir()
    with two_nodes(tmp_path) as nodes:
        settings = {"restarts": 3, "RECORD": str(record)}
        first = torchrun(nodes[0], "1:2", digits_root, *RUN, **settings)
        ranks = wait_for_steps(record, 20, ranks=1)
        os.kill(ranks[0], signal.SIGSTOP)  # it must not end before the other one has joined; torchrun will kill it
        second = torchrun(nodes[1], "1:2", digits_root, *RUN, **settings)
        for node, process in zip(nodes, (first, second), strict=True):
            assert process.wait(900) == 0, (node.folder / "err.txt").read_text()
    run = only_run(tmp_path / "first")
    assert Results.read(run).steps == STEPS
    assert Results.read(run).resumed >= 1
    # The last process of each rank: both took the same steps to the end, each with its own half of a batch.
    own, joined = rows(record, 0)[-1], rows(record, 1)[-1]
    assert [row["progress"] for row in own] == [row["progress"] for row in joined]
    assert len({row["progress"] for row in joined}) == len(joined) > 0, "one part of a step each"
    assert float(joined[-1]["progress"]) == 1
    assert not {row["sha256"] for row in own} & {row["sha256"] for row in joined}
    assert_same_weights(run, undisturbed)
