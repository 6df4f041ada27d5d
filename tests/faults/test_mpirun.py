"""Two processes that mpirun starts train one run, with Open MPI and with MPICH."""

import shutil
import signal
import subprocess

import pytest
import torch
from harness import RUN, SCRIPT, finish, only_run, rows, same_weights, start, wait_for_steps, weights

from fastconv.runs.results import Results

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT))
TWO = (*RUN, "trainer.devices=2", "schedule.max_epochs=12", "figures=false")
# Debian's names, or what is there.
MPIRUN = [path for name in ("mpirun.openmpi", "mpirun.mpich") if (path := shutil.which(name))] or ["mpirun"]
# Open MPI refuses root, and more processes than there are cores.
ALLOWED = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which(MPIRUN[0]), reason="mpirun is not installed")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, digits_root):
    """The same run of two processes that torchrun starts, and the bytes of each of its microbatches."""
    folder = tmp_path_factory.mktemp("straight")
    code, err = finish(folder, digits_root, *TWO, script=TORCHRUN, RECORD=str(folder))
    assert code == 0, err
    return only_run(folder), [row["sha256"] for row in rows(folder, 0)[0]]


@pytest.fixture(params=MPIRUN)
def two(request):
    """What starts two processes."""
    return {"launcher": (request.param, "-n", "2"), **ALLOWED}


def test_mpirun_trains_the_run_of_torchrun(tmp_path, digits_root, straight, two):
    code, err = finish(tmp_path, digits_root, *TWO, **two)
    assert code == 0, err
    assert same_weights(only_run(tmp_path), straight[0])
    assert (tmp_path / "out.txt").read_text().count("of the test images") == 1, "one rank speaks"


def test_mpirun_trains_it_on_two_nodes(tmp_path, digits_root, straight, two):
    """A script stands for ssh, so both are this host."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/bash\nwhile [[ "$1" == -* ]]; do shift; done\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    mpirun = two["launcher"][0]
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
    nodes, address = {
        True: (
            ["--mca", "plm_rsh_agent", ssh, "--host", "127.0.0.2,127.0.0.3", "-N", "1"],
            ["-x", "MASTER_ADDR=127.0.0.1"],
        ),
        False: (
            ["-launcher-exec", ssh, "-hosts", "one,two", "-ppn", "1", "-n", "2"],
            ["-genv", "MASTER_ADDR", "127.0.0.1", "-genv", "MASTER_PORT", "29543"],
        ),
    }["open-mpi.org" in version]
    run = (*TWO, "trainer.devices=1", "trainer.nodes=2")
    code, err = finish(tmp_path, digits_root, *run, **two | {"launcher": (mpirun, *nodes)})
    assert code != 0  # Open MPI's is not always that of the process
    assert err.count("fastconv: mpirun started 2 processes, which cannot find each other without MASTER_ADDR") == 1, err
    assert not (tmp_path / "outputs").exists()
    code, err = finish(tmp_path, digits_root, *run, **two | {"launcher": (mpirun, *nodes, *address)})
    assert code == 0, err
    assert same_weights(only_run(tmp_path), straight[0])


def test_another_number_of_processes_is_one_line(tmp_path, digits_root, two):
    code, err = finish(tmp_path, digits_root, *RUN, **two)
    assert code == 1, err
    assert err.count("fastconv: ") == 1, err
    assert "mpirun started 2 processes, but trainer.devices=1: make them the same" in err
    assert not (tmp_path / "outputs").exists()


def test_a_signal_to_mpirun_stops_the_run_which_goes_on(tmp_path, digits_root, straight, two):
    """Both send SIGUSR1 on. (After SIGTERM, Open MPI kills the processes within a second.)"""
    record = tmp_path / "record"
    record.mkdir()
    process = start(tmp_path, digits_root, *TWO, RECORD=str(record), **two)
    wait_for_steps(record, 20)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(600) == 128 + signal.SIGUSR1
    code, err = finish(tmp_path, digits_root, *TWO, "resume=auto", RECORD=str(record), **two)
    assert code == 0, err
    found = Results.read(only_run(tmp_path))
    assert (found.resumed, found.stop_reason) == (1, "epochs")
    parts = rows(record, 0)
    assert len(parts) == 2
    assert [row["sha256"] for part in parts for row in part] == straight[1]
    ours, theirs = weights(only_run(tmp_path)), weights(straight[0])
    for name in ours:  # statistics of batch norm up to rounding
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


def test_a_killed_process_ends_the_run(tmp_path, digits_root, two):
    record = tmp_path / "record"
    record.mkdir()
    run = (*TWO, "schedule.max_epochs=1000", "checkpoint.every=1")
    process = start(tmp_path, digits_root, *run, RECORD=str(record), **two)
    ranks = wait_for_steps(record, 40)
    subprocess.run(["kill", "-9", str(ranks[1])], check=True)
    assert process.wait(600) != 0
    assert (only_run(tmp_path) / "last.ckpt").exists()
