"""Runs in the jobs of a real SLURM of two nodes on this host (slurm_cluster.py), by the recipes of docs/running.md."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults.slurm_cluster import missing, slurm_cluster, wait_for
from harness import RUN, SCRIPT, STEPS, only_run, same_weights, weights

from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

TRAIN = (sys.executable, "-m", "fastconv.train")
TWO = ("trainer.devices=2",)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastconv.train")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment in which SLURM's commands find the cluster."""
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def begin(cluster, tmp_path, digits_root):
    """Starts a command in the cluster's environment."""

    def start(*command, **environment):
        settings = {**os.environ, **cluster, "FASTCONV_DATA": str(digits_root), "OMP_NUM_THREADS": "1", **environment}
        settings.pop("FASTCONV_FIRST_RANK", None)
        return subprocess.Popen(
            command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


@pytest.fixture
def inside(begin):
    """Runs a command in the cluster's environment to its end; returns its exit code and what it printed."""

    def run(*command, **environment):
        process = begin(*command, **environment)
        said, _ = process.communicate(timeout=1800)
        return process.returncode, said

    return run


@pytest.fixture
def begin_batch(begin, tmp_path):
    """Submits a batch script. The process that is returned ends when the job has ended, with its exit code."""

    def submit(*options, script, **environment):
        path = tmp_path / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        return begin("sbatch", "--wait", "--open-mode=append", "--output=job.txt", *options, path.name, **environment)

    return submit


@pytest.fixture
def batch(begin_batch, tmp_path):
    """Submits a batch script and waits until its job has ended; returns its exit code and what it printed."""

    def submit(*options, script, **environment):
        process = begin_batch(*options, script=script, **environment)
        said, _ = process.communicate(timeout=1800)
        return process.returncode, (tmp_path / "job.txt").read_text() if (tmp_path / "job.txt").exists() else said

    return submit


def test_every_launcher_trains_the_same_run_of_two_ranks(inside, tmp_path):
    ways = {
        "torchrun": (*TORCHRUN, *RUN, *TWO),
        "srun": ("srun", "--nodes=1", "--ntasks-per-node=2", *TRAIN, *RUN, *TWO),
        "nodes": ("srun", "--nodes=2", "--ntasks-per-node=1", *TRAIN, *RUN, "trainer.nodes=2"),
        "within": ("srun", "--ntasks=1", *TORCHRUN, *RUN, *TWO),
    }
    for name, command in ways.items():
        # Both nodes are this host, which does not know their names.
        code, said = inside(*command, f"outputs={name}", "figures=false", MASTER_ADDR="127.0.0.1")
        assert code == 0, said
        assert Results.read(only_run(tmp_path / name)).steps == STEPS
    assert same_weights(*(only_run(tmp_path / name) for name in ways))


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        (["--ntasks-per-node=2"], [], "srun started 2 processes, but trainer.devices=1: make them the same"),
        (["--nodes=2", "--ntasks-per-node=1"], ["trainer.nodes=1"], "on 2 nodes, but trainer.nodes=1"),
        (["--nodes=2", "--ntasks=3"], list(TWO), "1 and 2 on a node, but a run needs as many on each"),
        (["--ntasks=1"], list(TWO), "trainer.devices=2 needs 2 tasks of SLURM, this command has one"),
    ],
)
def test_another_number_of_tasks_is_one_line(inside, tmp_path, options, settings, says):
    code, said = inside("srun", *options, *TRAIN, *RUN, *settings)
    assert code == 1
    assert said.count("fastconv: ") == 2, said  # the first line of each command, and this one
    assert says in said
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("tasks", "says"), [(1, "needs 2 tasks of SLURM"), (2, "write srun before the command")])
def test_a_batch_script_without_srun_trains_on_one_device_only(batch, tmp_path, tasks, says):
    command = " ".join((*TRAIN, *RUN, "figures=false"))
    code, said = batch(f"--ntasks={tasks}", script=f"{command} trainer.devices=2")
    assert (code, says in said, "Traceback" in said) == (1, True, False), said
    assert not (tmp_path / "outputs").exists()
    code, said = batch(f"--ntasks={tasks}", script=command)
    assert code == 0, said
    assert is_finished(only_run(tmp_path))


def test_a_stopped_job_is_requeued_and_ends_as_if_nothing_had_happened(batch, inside, tmp_path):
    """SIGUSR1 comes in a certain step, as SLURM sends it with --signal=USR1@60."""
    step = 2 * STEPS * 6 // 10
    disturb = f"fastconv.training.module:ImageClassifier._score_training {step} {signal.SIGUSR1}"
    script = f"srun --ntasks=1 {sys.executable} {SCRIPT} {' '.join(RUN)} outputs=stopped figures=false"
    code, said = batch("--requeue", "--ntasks=1", script=script, DISTURB=disturb)
    assert code == 0, said
    assert re.search(r"ended by SIGUSR1; go on with: .*; job \d+ is requeued and will go on with this run", said)
    found = Results.read(only_run(tmp_path / "stopped"))
    assert (found.resumed, found.stop_reason, found.steps) == (1, "epochs", STEPS)
    code, said = inside(*TRAIN, *RUN, "outputs=straight", "figures=false")
    assert code == 0, said
    assert same_weights(only_run(tmp_path / "stopped"), only_run(tmp_path / "straight"))


PREEMPTED = "DUE TO PREEMPTION"  # SLURM ends the job by itself, and starts it again by itself
ASKED = "is requeued and will go on with this run"  # the run does, in the time that SLURM gives it to end


@pytest.mark.parametrize(
    ("partition", "launcher", "settings", "says"),
    [
        ("all", "srun --ntasks=1", (), PREEMPTED),
        ("all", "exec", (), PREEMPTED),
        ("all", "", (), PREEMPTED),  # SLURM kills the command as soon as the shell has ended
        ("all", "srun", TWO, PREEMPTED),
        ("patient", "srun --ntasks=1", (), ASKED),
        ("patient", "srun", TWO, ASKED),
    ],
)
def test_a_preempted_job_ends_as_if_nothing_had_happened(
    begin_batch, inside, tmp_path, partition, launcher, settings, says
):
    """Each rank suspends itself in a certain step. Then a job of higher priority is submitted, for which SLURM has the
    ranks go on and end (SIGCONT, SIGTERM)."""
    ranks = 2 if settings else 1
    step = 2 * STEPS * 6 // 10 // ranks
    disturb = f"fastconv.training.module:ImageClassifier._score_training {step} {signal.SIGSTOP}"
    run = " ".join((sys.executable, str(SCRIPT), *RUN, *settings, "outputs=preempted", "figures=false"))
    options = (f"--partition={partition}", "--requeue", "--nodes=1", f"--ntasks={ranks}")
    (tmp_path / "steps").mkdir()
    job = begin_batch(*options, script=f"{launcher} {run}", DISTURB=disturb, RECORD=str(tmp_path / "steps"))
    wait_for(lambda: len(suspended(tmp_path / "steps")) == ranks, "the run did not come to its step", 900)
    preempt(inside)
    job.communicate(timeout=1800)
    said = (tmp_path / "job.txt").read_text()
    assert (job.returncode, says in said, ASKED in said) == (0, True, says == ASKED), said
    assert "Traceback" not in said, said
    found = Results.read(only_run(tmp_path / "preempted"))
    assert (found.resumed, found.stop_reason, found.steps) == (1, "epochs", STEPS)
    straight = ("srun", "--nodes=1", f"--ntasks={ranks}", *TRAIN, *RUN, *settings, "outputs=straight", "figures=false")
    code, said = inside(*straight)
    assert code == 0, said
    ours, theirs = (weights(only_run(tmp_path / name)) for name in ("preempted", "straight"))
    for name in theirs:
        # Ranks average their statistics for a checkpoint too.
        rounding = 1e-6 if ranks > 1 and ".running_" in name else 0
        torch.testing.assert_close(ours[name], theirs[name], atol=rounding, rtol=rounding)


def test_one_task_of_an_array_is_preempted(begin_batch, inside, tmp_path):
    disturb = f"fastconv.training.module:ImageClassifier._score_training {STEPS} {signal.SIGSTOP}"
    run = " ".join((sys.executable, str(SCRIPT), *RUN, "seed=$SLURM_ARRAY_TASK_ID", "outputs=$SLURM_ARRAY_TASK_ID"))
    script = f"[ $SLURM_ARRAY_TASK_ID = 1 ] || unset DISTURB\nsrun {run} figures=false"
    (tmp_path / "steps").mkdir()
    options = ("--requeue", "--ntasks=1", "--array=0-3")
    job = begin_batch(*options, script=script, DISTURB=disturb, RECORD=str(tmp_path / "steps"))

    def only_one_is_left():
        runs = [path.parent for path in tmp_path.rglob("config.yaml")]
        return suspended(tmp_path / "steps") and sum(map(is_finished, runs)) == 3

    wait_for(only_one_is_left, "the other tasks did not end", 900)
    preempt(inside)
    job.communicate(timeout=1800)
    assert job.returncode == 0, (tmp_path / "job.txt").read_text()
    found = [Results.read(only_run(tmp_path / str(number))) for number in range(4)]
    assert [each.resumed for each in found] == [0, 1, 0, 0]
    assert [each.steps for each in found] == [STEPS] * 4


def preempt(inside):
    """Submit a job of higher priority, which needs all nodes, and wait until it has ended."""
    code, said = inside("sbatch", "--wait", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    assert code == 0, said


def suspended(records):
    """The processes that have recorded steps in a folder, as RANK-PROCESS.csv, and are suspended."""
    found = [path.stem.split("-")[1] for path in records.glob("*.csv")]
    states = {each: Path("/proc", each, "stat") for each in found}
    return [each for each, stat in states.items() if stat.exists() and stat.read_text().split()[2] == "T"]


def test_the_budget_is_what_the_job_has_left(batch, tmp_path):
    """That a run ends annealed and scored in time is shown in simulated time: tests/commands/test_budget_until.py."""
    run = " ".join((*TRAIN, *RUN, "budget.seconds=9000", "budget.until=job", "figures=false"))
    code, said = batch("--time=59", "--ntasks=1", script=run)
    assert code == 0, said
    found = Results.read(only_run(tmp_path))
    assert 59 * 60 - 90 <= found.budget_seconds <= 59 * 60  # 35 s are kept, and SLURM needs some to start
    assert found.budget_until is not None
    assert found.slurm_job is not None


@pytest.mark.parametrize(("launcher", "settings"), [("", ()), ("srun", TWO)])
def test_a_job_of_two_minutes_is_not_killed(batch, tmp_path, launcher, settings):
    """Nor stopped by the warning, which comes a minute before its end. SLURM ends it with another code than 0."""
    endless = ("schedule.max_epochs=null", "budget.seconds=9000", "budget.until=job", "figures=false")
    run = " ".join((*TRAIN, *RUN, *settings, *endless))
    options = ("--time=2", "--signal=USR1@60", "--nodes=1", f"--ntasks={2 if settings else 1}")
    code, said = batch(*options, script=f"{launcher} {run}")
    assert code == 0, said
    found = Results.read(only_run(tmp_path))
    assert (found.resumed, found.stop_reason) == (0, "budget")
    assert found.final_lr < 0.01 * found.hparams["optimizer.max_lr"]
    assert found.accuracy is not None
    assert is_finished(only_run(tmp_path))


def test_each_run_of_a_sweep_has_a_job_of_its_own(inside, tmp_path):
    """The launcher's settings as they are shipped, but for what this host has: no GPUs, few CPUs, no accounting."""
    here = ("gpus_per_node=null", "cpus_per_task=1", "mem_gb=1")
    launcher = ("hydra/launcher=slurm", *(f"hydra.launcher.{each}" for each in here))
    code, said = inside(*TRAIN, "-m", *RUN, "seed=0,1,2,3", *launcher, "figures=false")
    assert code == 0, said
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    found = [Results.read(sweep / str(number)) for number in range(4)]
    assert [each.seed for each in found] == [0, 1, 2, 3]
    assert len({each.slurm_job for each in found}) == 4
    (script,) = {path.read_text() for path in sweep.rglob("*.sh")}
    assert "#SBATCH --time=60\n" in script  # without a time limit
    assert "#SBATCH --requeue\n" in script
