"""The command that a run names for the time after it."""

import os
import shlex

import pytest

from fastconv.config.arguments import prepare_arguments
from fastconv.config.next_command import resume_command
from fastconv.config.overrides import compose


def test_a_run_goes_on_with_the_addresses_that_it_was_told():
    """It follows no others; where the run itself lies is known from its folder."""
    given = [
        "seed=1",
        "stream.root=s3://bucket/streams",
        "dataset.train=[s3://bucket/1.tar,s3://bucket/2.tar]",
        "outputs=s3://bucket/runs",
        "resume=s3://bucket/runs/digits/1",
    ]
    said = resume_command("s3://bucket/runs/digits/1", given, {})
    assert shlex.split(said) == ["python", "-m", "fastconv.train", given[4], *given[1:3]]


@pytest.mark.parametrize(
    "folder", ["outputs/my photos/1", "outputs/fotos [1], 50% é=ü's/1", "/a/{b}/1", "C:/runs/1", "~/runs/1"]
)
def test_a_run_goes_on_from_a_folder_of_any_name(folder):
    """The command that is pasted into a shell names the folder."""
    words = shlex.split(resume_command(folder, [], {}))
    assert words[:3] == ["python", "-m", "fastconv.train"]
    assert compose("train", prepare_arguments("train", words[3:])).resume == folder


def test_a_run_goes_on_with_code_of_the_users_own():
    said = resume_command("outputs/digits/1", ["seed=1"], {"model": {"_target_": "mypkg.Net"}})
    assert said == "python -m fastconv.train resume=outputs/digits/1 trust=true"


@pytest.fixture
def started(monkeypatch):
    """Sets the variables that a launcher sets, and no others."""
    for variable in list(os.environ):
        if variable.startswith(("SLURM_", "OMPI_", "PMI", "MPI_", "TORCHELASTIC_", "MASTER_")):
            monkeypatch.delenv(variable)

    def set_variables(variables):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)

    return set_variables


OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
MPICH = {"PMI_SIZE": "4", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "0"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
NODES = {**TORCHRUN, "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
PLACE = {"MASTER_ADDR": "node0", "MASTER_PORT": "4000"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "python"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, "python"),
        (OPEN_MPI, "mpirun -n 4 python"),
        ({**OPEN_MPI, **PLACE}, "mpirun -n 4 python"),
        ({**OPEN_MPI, **PLACE, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
         "mpirun --hostfile HOSTS -N 2 -x MASTER_ADDR=node0 python"),
        (MPICH, "mpirun -n 4 python"),
        ({**MPICH, **PLACE, "MPI_LOCALNRANKS": "2"},
         "mpirun -f HOSTS -n 4 -ppn 2 -genv MASTER_ADDR node0 -genv MASTER_PORT 4000 python"),
        (SRUN, "srun --nodes=2 --ntasks-per-node=2 python"),
        (TORCHRUN, "torchrun --standalone --nproc-per-node=2"),
        ({**NODES, "TORCHELASTIC_MAX_RESTARTS": "3"}, "torchrun --nnodes=2 --nproc-per-node=2 --max-restarts=3"
         " --rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500"),
        ({**SRUN, **NODES, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
         "srun --nodes=2 --ntasks-per-node=1 torchrun --nnodes=2 --nproc-per-node=2"
         " --rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500"),
    ],
)  # fmt: skip
def test_a_run_goes_on_by_the_launcher_that_started_it(started, variables, words):
    started(variables)
    assert resume_command("outputs/digits/1", [], {}) == f"{words} -m fastconv.train resume=outputs/digits/1"
