"""The processes (ranks) of one run: which one is the first, and how it shares values with the others.

Lightning starts the other ranks by running the command again once the first one is ready to train; torchrun, SLURM's
srun and mpirun start all ranks at once.
"""

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastconv.system.cluster import (
    Launch,
    around_torchrun,
    attempt,
    is_open_mpi,
    is_slurm_job,
    launch,
    not_given,
    number_in,
    set_torch_variables,
)
from fastconv.system.errors import InputError, SharedError, reason
from fastconv.system.launch_variables import contradiction, kept_variables
from fastconv.system.process import start_ticks
from fastconv.system.rank_store import ASK_AGAIN_SECONDS, is_connected, store, wait_for
from fastconv.system.slurm import is_restarted_job
from fastconv.system.wording import counted

# Environment variable by which the first rank passes values to the processes that it starts.
VARIABLE = "FASTCONV_FIRST_RANK"
# Variables in which launchers say how many processes they started, which fastconv does not take for one run.
OTHER_LAUNCHERS = {
    "PMI_SIZE": "a launcher",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "WORLD_SIZE": "a launcher",
}
# Seconds for which the other ranks wait for the first one to say what is wrong: a launcher may then end all at once.
WAIT_FOR_LINE = 3.0


def rank() -> int:
    """This process's rank in its run."""
    found = launch()
    return found.rank if found else number_in("RANK", number_in("LOCAL_RANK", 0))


def is_first_rank() -> bool:
    """Whether this process is the one that plans, writes files and prints."""
    return rank() == 0


def started_together() -> bool:
    """Whether a launcher started all ranks at once."""
    return launch() is not None


def is_restarted() -> bool:
    """Whether a run is started anew: by torchrun, since a rank ended before (`--max-restarts`), or by SLURM."""
    return attempt() > 0 or is_restarted_job()


def agent() -> str:
    """Identifies the torchrun that starts this process, and starts it anew; empty without torchrun.

    In a container that is started again it may have the number, and the host the name, of an earlier one.
    """
    found = launch()
    if found is None or found.launcher != "torchrun":
        return ""
    began = 0
    with suppress(OSError):
        began = start_ticks(os.getppid())
    return f"{platform.node()} {os.getppid()} {began}"


def end_with_first_rank() -> None:
    """End this process soon after the first rank has ended, if the first rank started it, even while it waits."""
    if started_together():
        return
    first = from_first_rank("process", os.getpid)
    if is_first_rank():
        return

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(ASK_AGAIN_SECONDS)
        print("fastconv: the first process of this run is gone, so this one ends too", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="first-rank").start()


def let_first_rank_speak() -> None:
    """Wait a while on another rank, if the ranks have not met yet: the first one refuses the same settings, says so,
    and the launcher ends this one. If it does not, this one is to speak."""
    if rank() and started_together() and not is_connected():
        time.sleep(WAIT_FOR_LINE)


def check_world(devices: int, nodes: int | None = None) -> None:
    """Raise InputError unless as many processes will train this run as the config says.

    A launcher has started all of them, or this process starts the others itself. So it must not be one of several
    processes that something else started, each of which would take itself for the whole run.

    Args:
        devices: `trainer.devices`, the processes on each node.
        nodes: `trainer.nodes`; None for those that the launcher has.
    """
    found = launch()
    apart = contradiction(found) if found else ""
    line = apart or (_unlike(found, devices, nodes) if found else _not_launched(devices, nodes))
    if not line:
        set_torch_variables()
        return
    if kept := kept_variables(found):  # nobody else may speak
        unset = f"; if a shell has kept the variables of an earlier launch, unset {' '.join(kept)}"
        raise InputError(line if apart else line + unset)
    if rank() and (found or number_in("WORLD_SIZE") > 1):  # the first rank says it
        time.sleep(WAIT_FOR_LINE)
        # Of mpirun it sees its own node only, where the number of processes may be right.
        by_node = found and found.launcher == "mpirun" and found.local_rank == 0 and found.on_nodes[0] != devices
        if not (apart or by_node):
            raise SystemExit(1)
    raise InputError(line)


def _unlike(found: Launch, devices: int, nodes: int | None) -> str:
    """How what a launcher has started differs from what the config says; empty if it does not."""
    outer = around_torchrun() if found.launcher == "torchrun" else None
    # One that may start its processes anew may also wait for machines that join later (--nnodes=1:2).
    if outer and outer.world > len(found.on_nodes) and not number_in("TORCHELASTIC_MAX_RESTARTS", 0):
        return (
            f"{outer.launcher} started torchrun {outer.world} times, and each would train the whole run: use"
            f" {outer.launcher} -n 1, or torchrun --nnodes={outer.world} --rdzv-backend=c10d"
            " --rdzv-endpoint=FIRST_NODE:29500"
        )
    there = f"{found.launcher} started {counted(found.world, 'process')}"
    several = len(found.on_nodes) > 1
    if nodes is not None and len(found.on_nodes) != nodes:
        on = counted(len(found.on_nodes), "node")
        return f"{there} on {on}, but trainer.nodes={nodes}: make them the same"
    option, each = f"{found.launcher} {_option(found, devices)}", ""
    if several and found.launcher == "mpirun":  # which does not say how many are on the others
        each = f", {found.on_nodes[0]} on this node"
    elif several:
        each = f", {found.on_nodes[0]} on each of {len(found.on_nodes)} nodes"
    if (unequal := sorted(set(found.on_nodes)))[1:]:
        on = each if found.launcher == "mpirun" else f", {' and '.join(map(str, unequal))} on a node"
        return f"{there}{on}, but a run needs as many on each: use {option}"
    if found.world != devices * len(found.on_nodes):
        return (
            f"{there}{each}, but trainer.devices={devices}: make them the same, with"
            f" trainer.devices={found.on_nodes[0]} or {option}"
        )
    if missing := not_given(found):
        give = ("-x {}={}" if is_open_mpi() else "-genv {} {}").format
        places = {"MASTER_ADDR": "FIRST_NODE", "MASTER_PORT": "FREE_PORT"}
        options = " ".join(give(variable, places[variable]) for variable in missing)
        return f"{there}, which cannot find each other without {' and '.join(missing)}: use mpirun {options}"
    return ""


def _option(found: Launch, devices: int) -> str:
    """How to ask a launcher for so many processes on each node."""
    if found.launcher != "mpirun":
        return {"srun": "--ntasks-per-node", "torchrun": "--nproc-per-node"}[found.launcher] + f"={devices}"
    if len(found.on_nodes) == 1:
        return f"-n {devices}"
    return f"-N {devices}" if is_open_mpi() else f"-ppn {devices}"


def _not_launched(devices: int, nodes: int | None) -> str:
    """Why this process, which no launcher has started with others, cannot train what the config says."""
    if VARIABLE in os.environ and not is_first_rank():  # the first rank, which has been checked, started this process
        return ""
    if not is_first_rank() and number_in("WORLD_SIZE") == 1:
        return f"RANK or LOCAL_RANK is {rank()} here, but no launcher has started this process with others: unset them"
    world = devices * (nodes or 1)
    if world > 1 and is_slurm_job():
        what = f"trainer.devices={devices}" + f" on trainer.nodes={nodes}" * ((nodes or 1) > 1)
        tasks = number_in("SLURM_NTASKS")
        if tasks == world and "SLURM_STEP_ID" not in os.environ:
            return f"{what} needs a process in each of the job's {tasks} tasks: write srun before the command"
        return (
            f"{what} needs {world} tasks of SLURM, this command has one: use sbatch --nodes={nodes or 1}"
            f" --ntasks-per-node={devices} and write srun before the command"
        )
    if (nodes or 1) > 1:
        return (
            f"trainer.nodes={nodes} needs a launcher that starts the processes on each node: srun, mpirun, or torchrun"
            f" --nnodes={nodes} --nproc-per-node={devices}"
        )
    for variable, launcher in OTHER_LAUNCHERS.items():
        if (started := number_in(variable)) > 1:
            return (
                f"{launcher} started {started} processes ({variable}), but each would train the whole run: start one,"
                " or use srun, mpirun, or torchrun --standalone --nproc-per-node=N, and trainer.devices=N"
            )
    return ""


# The error of which `from_first_rank` has told the others.
_told: BaseException | None = None


def all_know(error: BaseException) -> bool:
    """Whether an error ends all ranks, each by itself."""
    return isinstance(error, SharedError) or error is _told


def from_first_rank(name: str, make: Callable[[], Any]) -> Any:
    """Call `make` on the first rank and return its value on every rank.

    Args:
        name: identifies the value; the same on every rank, and different for each value.
        make: called on the first rank only; returns a value that JSON can hold.

    Raises what `make` raises on the first rank, and SharedError on the others.
    """
    first = is_first_rank()
    if started_together():
        if first:
            try:
                value = make()
            except BaseException as error:
                global _told
                _told = error
                store().set(name, json.dumps({"failed": reason(error)}))
                raise
            store().set(name, json.dumps({"value": value}))
            return json.loads(json.dumps(value))
        found = json.loads(wait_for(name))
        if "failed" in found:
            raise SharedError(found["failed"])
        return found["value"]
    told = json.loads(os.environ.get(VARIABLE, "{}"))
    if first:
        told[name] = make()
        os.environ[VARIABLE] = json.dumps(told)
    return told[name]


def on_any_rank(name: str, own: bool) -> bool:
    """Whether something holds on any of the processes that a launcher has started together. All of them call this.

    Args:
        name: as for `from_first_rank`.
    """
    if world() == 1:
        return own
    store().set(f"{name}/{rank()}", str(int(own)))
    return bool(from_first_rank(name, lambda: any(wait_for(f"{name}/{each}") == b"1" for each in range(world()))))


def world() -> int:
    """Number of processes that a launcher has started together with this one; 1 without a launcher."""
    found = launch()
    return found.world if found else 1


def lost_rank(error: BaseException) -> bool:
    """Whether an error means that another process of the run is gone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
