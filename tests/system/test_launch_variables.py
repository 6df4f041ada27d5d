"""Variables of a launcher that a shell has kept, or that contradict each other: each ends with one line."""

import os
import pty
import subprocess
import sys

import pytest
from harness import REPOSITORY

OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", 1), ("SIZE", 2), ("LOCAL_RANK", 1))}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
CHECK = """
import sys
from fastconv.system import distributed
from fastconv.system.errors import InputError
distributed.WAIT_FOR_LINE = 0.0
try:
    distributed.check_world(1)
except InputError as error:
    print(error)
    sys.exit(1)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def said(tmp_path, setter, variables, stdin=subprocess.DEVNULL):
    """The exit code and lines of a process for one device whose variables another one of this name has set."""
    ours = ("SLURM_", "OMPI_", "PMI", "MPI_", "JSM_", "TORCHELASTIC_", "FASTCONV_FIRST")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours) and name not in names}
    script = tmp_path / setter
    given = " ".join(f"{name}={value}" for name, value in variables.items())
    script.write_text(f'#!/bin/bash\n{given} sh -c \'"$0" -c "$1"; exit $?\' "$@"\nexit $?\n')
    script.chmod(0o755)
    ended = subprocess.run(
        [script, sys.executable, CHECK], env=environment, cwd=REPOSITORY, stdin=stdin, capture_output=True, text=True
    )
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def test_the_process_that_set_a_variable():
    """The shell between began with it."""
    show = "from fastconv.system.process import setter_of; print(setter_of('FASTCONV_SET'))"
    shell = ["bash", "-c", 'FASTCONV_SET=1 sh -c "\\"$0\\" -c \\"$1\\"; true" "$@"; true', sys.executable, show]
    assert subprocess.run(shell, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout == "bash\n"


@pytest.mark.parametrize(
    ("variables", "setter", "unset"),
    [
        (OPEN_MPI, "bash", "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK"),
        (OPEN_MPI, "tmux: server", "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK"),
        (
            OPEN_MPI,
            "slurmstepd",
            "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK",
        ),  # sbatch handed them on
        (SRUN, "bash", "SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID SLURM_STEP_TASKS_PER_NODE"),
        (TORCHRUN, "systemd", "RANK WORLD_SIZE LOCAL_RANK TORCHELASTIC_RUN_ID"),
    ],
)
def test_variables_that_a_shell_has_kept_are_one_line(tmp_path, variables, setter, unset):
    """No first process is there to say it."""
    code, line = said(tmp_path, setter, variables)
    assert (code, line.count("\n")) == (1, 1)
    assert "started 2 processes, but trainer.devices=1: make them the same, with trainer.devices=2 or " in line
    assert line.endswith(f"; if a shell has kept the variables of an earlier launch, unset {unset}\n")


@pytest.mark.parametrize(
    ("variables", "setter"),
    [(OPEN_MPI, "mpirun"), (OPEN_MPI, "orted"), (SRUN, "slurmstepd"), (TORCHRUN, "python3"),
     ({"RANK": "1", "WORLD_SIZE": "2"}, "bash")],
)  # fmt: skip
def test_of_the_processes_of_a_launcher_only_the_first_one_speaks(tmp_path, variables, setter):
    assert said(tmp_path, setter, variables) == (1, "")


@pytest.mark.parametrize(
    ("variables", "setter"), [(OPEN_MPI, "mpirun"), (SRUN, "slurmstepd"), ({"RANK": "1", "WORLD_SIZE": "2"}, "bash")]
)
def test_a_process_with_a_terminal_of_its_own_speaks(tmp_path, variables, setter):
    """`mpirun -n 2 xterm`; or a shell in one of several containers."""
    terminal, of_process = pty.openpty()
    try:
        code, line = said(tmp_path, setter, variables, of_process)
    finally:
        os.close(terminal)
        os.close(of_process)
    assert (code, line.count("; if a shell has kept the variables of an earlier launch, unset ")) == (1, 1)


@pytest.mark.parametrize("variables", [{"RANK": "1", "WORLD_SIZE": "2"}, TORCHRUN])
def test_each_process_of_a_script_reads_its_terminal(tmp_path, variables):
    terminal, of_process = pty.openpty()
    try:
        assert said(tmp_path, "launch.py", variables, of_process) == (1, "")
    finally:
        os.close(terminal)
        os.close(of_process)
