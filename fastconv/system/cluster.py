"""The processes of one run that a launcher (torchrun, SLURM's srun, mpirun) has started together: how many, where, and
which of them this one is.

Where no launcher has, this process is the only one, or the first rank has started it.
"""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastconv.system.process import parent_of

# Ports for the processes of srun and mpirun to find each other: below those that the kernel hands out. Steps of one
# job, and jobs with numbers close to each other, may share a node: their ports differ (the spread and the number of
# ports have no common divisor).
FIRST_PORT, PORTS, SPREAD = 15000, 15000, 101
# Names of SLURM jobs that only lend their machine to a shell (Lightning's convention).
INTERACTIVE = ("bash", "interactive")


@dataclass(frozen=True)
class Launch:
    """The processes that a launcher has started.

    Args:
        launcher: `torchrun`, `srun` or `mpirun`.
        rank, world: of this process among all, and their number.
        local_rank: of this process among those of its node.
        node: of this process, from 0.
        on_nodes: the number of processes on each node.
    """

    launcher: str
    rank: int
    world: int
    local_rank: int
    node: int
    on_nodes: tuple[int, ...]


def launch() -> Launch | None:
    """The processes that a launcher has started together with this one; None if it started only this one."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        world = number_in("WORLD_SIZE")
        nodes = number_in("GROUP_WORLD_SIZE") or 1
        return Launch(
            "torchrun",
            number_in("RANK", 0),
            world,
            number_in("LOCAL_RANK", 0),
            number_in("GROUP_RANK", 0),
            (number_in("LOCAL_WORLD_SIZE", world // nodes),) * nodes,
        )
    return around_torchrun()


def around_torchrun() -> Launch | None:
    """The processes that srun or mpirun has started together with this one, or with the torchrun that started it."""
    # srun last: in a job of SLURM, an mpirun may start by it what starts its processes on other nodes.
    return _of_mpirun() or _of_srun()


def _of_srun() -> Launch | None:
    """The processes that SLURM's srun has started; None if it is not the launcher."""
    given, world = os.environ, number_in("SLURM_STEP_NUM_TASKS")
    if world < 2 or "SLURM_PROCID" not in given:
        return None
    return Launch(
        "srun",
        number_in("SLURM_PROCID", 0),
        world,
        number_in("SLURM_LOCALID", 0),
        number_in("SLURM_NODEID", 0),
        tasks_on_nodes(given.get("SLURM_STEP_TASKS_PER_NODE", "")) or (world,),
    )


def _of_mpirun() -> Launch | None:
    """The processes that mpirun of Open MPI, or of MPICH and Intel MPI (Hydra), has started; None if it is not the
    launcher.

    Each says how many processes are on this node, not how many are on the others: if they differ, so does what the
    processes of the nodes find here. Processes are numbered node by node or, with `--map-by node`, in turn.
    """
    if is_open_mpi():
        rank, world, local_rank, here = (
            f"OMPI_COMM_WORLD_{each}" for each in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
        )
    elif "MPI_LOCALRANKID" in os.environ:  # SLURM and others set the variables of PMI too
        rank, world, local_rank, here = "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"
    else:
        return None
    processes = number_in(world)
    if processes < 2:
        return None
    each = min(number_in(here, processes) or processes, processes)  # a shell may have kept some of another launch
    nodes, left = divmod(processes, each)
    at, within = number_in(rank, 0), number_in(local_rank, 0)
    node = at // each if at % each == within else at % nodes
    return Launch("mpirun", at, processes, within, node, (each,) * nodes + (left,) * (left > 0))


def is_open_mpi() -> bool:
    """Whether Open MPI's mpirun has started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def not_given(found: Launch) -> list[str]:
    """The variables that must be set for the processes to find each other, and are not: those of mpirun do not know
    which node is the first, and those of MPICH on several nodes nothing that is the same on all and in no other job."""
    needed = {
        "MASTER_ADDR": found.launcher == "mpirun" and len(found.on_nodes) > 1,
        "MASTER_PORT": found.launcher != "torchrun" and _job_number(found) is None,
    }
    return [variable for variable, is_needed in needed.items() if is_needed and not os.environ.get(variable)]


def attempt() -> int:
    """How often torchrun has started the processes anew since one ended; 0 without torchrun."""
    found = launch()
    return number_in("TORCHELASTIC_RESTART_COUNT", 0) if found and found.launcher == "torchrun" else 0


def launched_nodes() -> int:
    """The number of nodes on which a launcher has started processes of this run; 1 without a launcher."""
    found = launch()
    return len(found.on_nodes) if found else 1


def world_size(devices: int, nodes: int | None) -> int:
    """The number of processes that train together: `devices` on each node, by default of those that a launcher has."""
    return devices * (launched_nodes() if nodes is None else nodes)


def is_slurm_job() -> bool:
    """Whether SLURM started this command: a job of an interactive shell only lends its machine."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def tasks_on_nodes(text: str) -> tuple[int, ...]:
    """The number of tasks on each node, as SLURM writes it: `2(x3),1` is two on three nodes and one on another."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return tuple(int(tasks) for tasks, times in found for _ in range(int(times or 1)))


def first_node(names: str) -> str:
    """The first of the nodes in a list as SLURM writes it: `gpu[07-09,11],cpu1` begins with gpu07."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", names)[0])


def set_torch_variables() -> None:
    """Set the environment variables that torchrun sets, by which torch and Lightning find the other processes of srun
    and mpirun. MASTER_ADDR and MASTER_PORT, where they are set, stay."""
    found = launch()
    if found is None or found.launcher == "torchrun":
        return
    given = os.environ
    given.update(
        {
            "RANK": str(found.rank),
            "WORLD_SIZE": str(found.world),
            "LOCAL_RANK": str(found.local_rank),
            "LOCAL_WORLD_SIZE": str(found.on_nodes[found.node]),
            "GROUP_RANK": str(found.node),
            "GROUP_WORLD_SIZE": str(len(found.on_nodes)),
            "MASTER_ADDR": given.get("MASTER_ADDR") or _first_address(found),
            "MASTER_PORT": given.get("MASTER_PORT") or str(FIRST_PORT + (_job_number(found) or 0) % PORTS),
        }
    )


def _job_number(found: Launch) -> int | None:
    """A number that all processes of a launcher know and those of its other jobs do not; None if there is none."""
    if found.launcher == "srun":
        return SPREAD * number_in("SLURM_JOB_ID", 0) + number_in("SLURM_STEP_ID", 0)
    if is_open_mpi() and (name := os.environ.get("PMIX_NAMESPACE")):
        return zlib.crc32(name.encode())
    # Hydra gives no name. One process of it on each node starts all of them there, each in a session of its own.
    starter = parent_of(os.getsid(0)) if len(found.on_nodes) == 1 and not is_open_mpi() and hasattr(os, "getsid") else 0
    return SPREAD * starter or None


def _first_address(found: Launch) -> str:
    names = os.environ.get("SLURM_STEP_NODELIST", "") if found.launcher == "srun" else ""
    return first_node(names) if len(found.on_nodes) > 1 and names else "127.0.0.1"


@contextmanager
def ranks_of_one_job(arguments: Sequence[str]) -> Iterator[None]:
    """Within the block, Lightning starts further ranks with these arguments of the command.

    Nothing of them stays in this process afterwards: neither their variables nor the connection to them.
    A launcher that has started all ranks together keeps them for the next job.
    """
    if launch() is not None:
        yield
        return
    given, environment = sys.argv, dict(os.environ)
    sys.argv = [given[0], *arguments]
    try:
        yield
    finally:
        sys.argv = given
        for variable in set(os.environ) - set(environment):
            del os.environ[variable]
        os.environ.update(environment)
        torch = sys.modules.get("torch")
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def end_processes(started: "list[subprocess.Popen[bytes]]") -> None:
    """Kill the processes that Lightning's launcher has started for a run that failed, and clear its list of them.

    They would wait for this process to end, which may go on with the next run of a sweep; and Lightning's observer of
    this list would kill this process too as soon as one of them has failed.
    """
    ending = list(started)
    started.clear()
    for process in ending:
        process.kill()
    for process in ending:
        process.wait()


def number_in(variable: str, otherwise: int = 1) -> int:
    """The number in an environment variable, or another one if there is none."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise
