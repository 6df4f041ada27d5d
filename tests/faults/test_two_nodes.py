"""Two machines with separate disks train one run, with one rank on each or two: fresh, killed, and resumed on both
machines or on one."""

import functools
import os
import re
import shutil
import signal
import time

import pytest
import torch
from faults.two_nodes import FIRST, SECOND, cut, torchrun, two_nodes, why_not
from harness import SMALL, alive, only_run, rows, steps_alike, wait_for_steps, weights

from fastconv.runs.results import Results

STEPS = 100
RUN = (*SMALL, "dataset=digits", "trainer.strategy=ddp", "stream=online", "figures=false", "budget.seconds=null",
       f"schedule.max_epochs={STEPS * 64 / 1438}")  # fmt: skip
# For four ranks, and for two that are compared with them: batch norm sees parts of a batch, which must be as large.
# Sums over other numbers of ranks differ in their last bits, and sooner or later a maximum of two nearly equal numbers
# is the other one. With such small parts and the usual learning rate that grows to 0.1 in 100 steps, as it does on one
# rank if the first weights are changed by a ten-millionth.
GENTLE = ("micro_batch_size=16", "optimizer.max_lr=0.0005")
OF_RANKS = {1: (), 2: GENTLE}
WHY_NOT = why_not()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "two nodes can be made")]


def finish(nodes, data, *overrides, shape="2", **settings):
    """Train on these nodes to the end, which must be a good one."""
    processes = [torchrun(node, shape, data, *RUN, *overrides, **settings) for node in nodes]
    for node, process in zip(nodes, processes, strict=True):
        assert process.wait(900) == 0, (node.folder / "err.txt").read_text()


def wait_for_end(processes):
    """Wait until these processes have ended, long before the system gives connections up that nothing has closed."""
    deadline = time.monotonic() + 300
    while running := [each for each in processes if alive(each)]:
        assert time.monotonic() < deadline, f"{running} wait for ever"
        time.sleep(0.5)


def assert_same_weights(run, other, also_statistics=False):
    """The weights, and where two ranks have trained both runs throughout, the statistics of batch norm: another number
    of ranks sees them in other portions, and a sum of four depends on its order, which is another in the first step of
    a process than in those that follow."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if (also_statistics or "running" not in name) and ours[name].is_floating_point():
            torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)


def new_folder(folder, name):
    (folder / name).mkdir()
    return folder / name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits_root):
    """Trains a run, once for each number of ranks on a machine and settings, and returns its folder."""

    @functools.cache
    def trained(ranks, settings):
        folder = tmp_path_factory.mktemp("undisturbed")
        digests = new_folder(folder, "digests")
        with two_nodes(folder) as nodes:
            finish(nodes, digits_root, *settings, ranks=ranks, DIGESTS=str(digests))
        assert Results.read(only_run(folder / "first")).steps == STEPS
        assert not (folder / "second" / "outputs").exists()
        assert steps_alike(digests / "0", 2 * ranks) == list(range(STEPS + 1))
        return only_run(folder / "first")

    return trained


@pytest.fixture(scope="module")
def killed(tmp_path_factory, digits_root):
    """Makes the first machine's folder after both were switched off in the middle of a run, by ranks on a machine."""

    @functools.cache
    def stopped(ranks):
        folder = tmp_path_factory.mktemp("killed")
        record, digests = new_folder(folder, "record"), new_folder(folder, "digests")
        given = {"ranks": ranks, "RECORD": str(record), "DIGESTS": str(digests)}
        with two_nodes(folder) as nodes:
            run = (*RUN, *OF_RANKS[ranks], "checkpoint.every=1")
            processes = [torchrun(node, "2", digits_root, *run, **given) for node in nodes]
            found = wait_for_steps(record, 20, 2 * ranks)
            for victim in (*(process.pid for process in processes), *found.values()):
                os.kill(victim, signal.SIGKILL)
            for process in processes:
                process.wait(60)
        assert max(steps_alike(digests / "0", 2 * ranks)) > 0
        return folder / "first"

    return stopped


def test_four_ranks_train_the_weights_of_two(undisturbed):
    assert_same_weights(undisturbed(2, GENTLE), undisturbed(1, GENTLE))


@pytest.mark.parametrize("count", [2, 1])
@pytest.mark.parametrize("ranks", [1, 2], ids=["one rank each", "two ranks each"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, digits_root, undisturbed, killed, ranks, count):
    begun, digests = killed(ranks), new_folder(tmp_path, "digests")
    with two_nodes(tmp_path) as nodes:
        shutil.copytree(begun / "outputs", tmp_path / "first" / "outputs")
        given = {"shape": str(count), "ranks": ranks, "DIGESTS": str(digests)}
        finish(nodes[:count], digits_root, *OF_RANKS[ranks], "checkpoint.every=1", "resume=auto", **given)
    run = only_run(tmp_path / "first")
    found = Results.read(run)
    assert (found.steps, found.resumed, found.stop_reason) == (STEPS, 1, "epochs")
    assert_same_weights(run, undisturbed(ranks, OF_RANKS[ranks]), also_statistics=(ranks, count) == (1, 2))
    if count * ranks > 1:
        first, *others = steps_alike(digests / "0", count * ranks)
        assert 0 < first < STEPS
        assert others == list(range(first + 1, STEPS + 1))
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


def test_both_end_when_the_network_between_them_is_gone(tmp_path, digits_root):
    """Nothing closes their connections, and the second one has no store to ask any more."""
    record = new_folder(tmp_path, "record")
    with two_nodes(tmp_path) as nodes:
        processes = [torchrun(node, "2", digits_root, *RUN, RECORD=str(record)) for node in nodes]
        ranks = wait_for_steps(record, 10)
        for rank in ranks.values():  # they must not end before the network does
            os.kill(rank, signal.SIGSTOP)
        cut(nodes[0])
        for rank in ranks.values():
            os.kill(rank, signal.SIGCONT)
        wait_for_end(ranks.values())
        for process in processes:
            process.kill()
            process.wait(60)
    lost = ("process 1", "the process that keeps the store")
    for node, other in zip(nodes, lost, strict=True):
        assert f"fastconv: {other} of this run is gone, so this one ends too" in (node.folder / "err.txt").read_text()


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
    assert_same_weights(run, undisturbed(1, ()))


@pytest.mark.parametrize("store", [FIRST, SECOND], ids=["with torchrun's store", "alone"])
def test_a_lost_first_machine_takes_what_the_run_has_saved_with_it(tmp_path, digits_root, store):
    """The other one ends, if torchrun needs the first, or says that it begins from the start."""
    record = new_folder(tmp_path, "record")
    with two_nodes(tmp_path) as nodes:
        given = {"restarts": 3, "store": store, "RECORD": str(record)}
        first, second = (torchrun(node, "1:2", digits_root, *RUN, "checkpoint.every=1", **given) for node in nodes)
        ranks = wait_for_steps(record, 20)
        for victim in (first.pid, ranks[0]):
            os.kill(victim, signal.SIGKILL)
        code = second.wait(900)
        first.wait(60)
    said = (tmp_path / "second" / "err.txt").read_text()
    assert re.search(r"of this run.* is gone, so", said), said  # from the connections, or the heartbeat
    assert (
        (code == 0) == (store == SECOND) == ("outputs on this machine is unfinished: it begins from the start" in said)
    )
    if store == SECOND:
        found = Results.read(only_run(tmp_path / "second"))
        assert (found.steps, found.resumed) == (STEPS, 0)
    else:
        assert not (tmp_path / "second" / "outputs").exists()


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
    assert_same_weights(run, undisturbed(1, ()))
