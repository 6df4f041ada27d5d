"""How many processes train: what a scheduler or launcher started must be what the config says."""

import pytest
from harness import RUN

from fastconv.system.distributed import check_world, is_restarted
from fastconv.system.errors import InputError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1"}
VARIABLES = ("SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE",
             "JSM_NAMESPACE_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID",
             "TORCHELASTIC_RESTART_COUNT",             "FASTCONV_FIRST_RANK")  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """Sets the variables that a launcher sets, and no others."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def set_variables(variables):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, 1),
        ({}, 2),  # Lightning starts the other
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1),  # the one process of a batch script
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, 2),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({**TORCHRUN, "WORLD_SIZE": "2", "RANK": "1"}, 2),
        ({**TORCHRUN, "WORLD_SIZE": "2", "SLURM_NTASKS": "1"}, 2),  # torchrun in a task of SLURM's
        ({"FASTCONV_FIRST_RANK": "{}", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2),  # what Lightning starts
    ],
)
def test_processes_that_are_as_many_as_the_config_says(started, variables, devices):
    started(variables)
    check_world(devices)


@pytest.mark.parametrize(
    ("variables", "devices", "says"),
    [
        ({"SLURM_NTASKS": "1"}, 2, "trainer.devices=2 is not possible in a SLURM job (SLURM_NTASKS=1)"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, 2, "trainer.devices=2 is not possible in a SLURM job"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, 1, "srun started 2 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 1, "mpirun started 4 processes"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4, "mpirun started 4 processes"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, "a launcher started 2 processes (WORLD_SIZE)"),
        ({**TORCHRUN, "WORLD_SIZE": "2"}, 1, "torchrun started 2 processes, but trainer.devices=1"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 2, "torchrun started 1 process, but trainer.devices=2"),
    ],
)
def test_processes_that_are_not_are_refused(started, variables, devices, says):
    started(variables)
    with pytest.raises(InputError) as error:
        check_world(devices)
    assert says in str(error.value)


def test_only_what_torchrun_starts_anew_is_restarted(started):
    started({"TORCHELASTIC_RESTART_COUNT": "2"})  # left by something else
    assert not is_restarted()
    started({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"})
    assert not is_restarted()
    started({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert is_restarted()


def test_a_command_is_refused_before_anything_is_written(command, tmp_path, started):
    started({"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"})
    ended = command("train", *RUN, "trainer.devices=2", "batch_size=64", "micro_batch_size=32")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "torchrun --standalone --nproc-per-node=2" in ended.err
    assert not list(tmp_path.iterdir())
