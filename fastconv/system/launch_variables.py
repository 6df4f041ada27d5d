"""The variables by which a launcher tells a process its place: whether they fit together, and whether it has set them.

A shell may have kept them: one in tmux outlives the launcher that started it, `sbatch` hands on the variables of the
process that calls it, and a shell in a container may have those of the container.
"""

import os
from contextlib import suppress

from fastconv.system.cluster import Launch, is_open_mpi, number_in
from fastconv.system.process import setter_of

# The first of each is a process's own.
TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{each}" for each in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
HYDRA = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
# Names of processes that start commands one by one: shells, what else opens a session, and the first process of a
# system, which takes over what has lost the process that started it.
SHELLS = frozenset(
    {"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "busybox", "sshd", "login", "su", "sudo"}
)
SESSIONS = frozenset({"tmux: server", "screen", "xterm", "cron", "crond", "systemd", "init", "tini", "docker-init"})
# What starts the tasks of a job of SLURM, and batch scripts.
SLURM_STEP = "slurmstepd"


def contradiction(found: Launch) -> str:
    """How the variables of a launcher contradict each other; empty if they do not."""
    if found.rank < found.world and found.node < len(found.on_nodes) and found.local_rank < found.on_nodes[found.node]:
        return ""
    given = ", ".join(f"{name}={os.environ[name]}" for name in _variables(found) if name in os.environ)
    return (
        f"the variables of {found.launcher} contradict each other ({given}): unset them if a shell has kept them, or"
        f" start the command by {found.launcher} and leave them as it sets them"
    )


def kept_variables(found: Launch | None) -> list[str]:
    """The variables that put this process among several, if it seems that a shell has kept them: what has set them is
    none of the launcher's processes, or this process reads from a terminal, as only the first one of a launcher can.

    Args:
        found: what the variables say; None for those of no launcher that fastconv knows.
    """
    variables = _variables(found)
    setter = setter_of(variables[0])
    alone = setter in SHELLS | SESSIONS
    if found is None:  # a script may start a process for each device, and each reads from the script's terminal
        kept = number_in("WORLD_SIZE") > 1 and _reads_terminal() and (alone or not setter)
    else:
        of_batch_script = setter == SLURM_STEP and found.launcher != "srun"
        by_hand = found.launcher != "torchrun" and found.rank > 0 and _reads_terminal()
        kept = alone or of_batch_script or by_hand
    return [name for name in variables if name in os.environ] if kept else []


def _variables(found: Launch | None) -> tuple[str, ...]:
    if found is None or found.launcher == "torchrun":
        return TORCH if found is None else (*TORCH, "TORCHELASTIC_RUN_ID")
    if found.launcher == "srun":
        return SLURM
    return OPEN_MPI if is_open_mpi() else HYDRA


def _reads_terminal() -> bool:
    with suppress(OSError):
        return os.isatty(0)
    return False
