"""The processes (ranks) of one run: which one is the first, and how it shares values with the others.

Lightning starts the other ranks by running the command again once the first one is ready to train; torchrun and SLURM's
srun start all ranks at once.
"""

import functools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastconv.system.cluster import Launch, is_slurm_job, launch, number_in, torch_variables
from fastconv.system.errors import InputError, SharedError, reason
from fastconv.system.slurm import is_restarted_job
from fastconv.system.wording import counted

# Environment variable by which the first rank passes values to the processes that it starts.
VARIABLE = "FASTCONV_FIRST_RANK"
ASK_AGAIN_SECONDS = 1.0
# Seconds that other ranks wait at most for the first one to end too, and then give it to say why all of them end.
WAIT_FOR_FIRST_RANK, TIME_TO_SAY = 20.0, 3.0
# What a process says at its end, for the others to hear.
ENDED, FAILED = "ended", "failed"
# Variables in which launchers say how many processes they started, which fastconv does not take for one run.
OTHER_LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "WORLD_SIZE": "a launcher",
}
# Seconds for which the other ranks of a wrong launch wait for the first one to say so: a launcher may end all at once.
WAIT_FOR_LINE = 3.0


def rank() -> int:
    """This process's rank in its run."""
    found = launch()
    return found.rank if found else int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def is_first_rank() -> bool:
    """Whether this process is the one that plans, writes files and prints."""
    return rank() == 0


def started_together() -> bool:
    """Whether a launcher started all ranks at once."""
    return launch() is not None


def is_restarted() -> bool:
    """Whether a run is started anew: by torchrun, since a rank ended before (`--max-restarts`), or by SLURM."""
    return _attempt() > 0 or is_restarted_job()


def _attempt() -> int:
    found = launch()
    by_torchrun = found is not None and found.launcher == "torchrun"
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if by_torchrun else 0


def agent() -> str:
    """Identifies the torchrun that starts this process, and starts it anew; empty without torchrun."""
    found = launch()
    return f"{platform.node()} {os.getppid()}" if found and found.launcher == "torchrun" else ""


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


def check_world(devices: int, nodes: int | None = None) -> None:
    """Raise InputError unless as many processes will train this run as the config says.

    A launcher has started all of them, or this process starts the others itself. So it must not be one of several
    processes that something else started, each of which would take itself for the whole run.

    Args:
        devices: `trainer.devices`, the processes on each node.
        nodes: `trainer.nodes`; None for those that the launcher has.
    """
    found = launch()
    if line := _unlike(found, devices, nodes) if found else _not_launched(devices, nodes):
        if rank():
            time.sleep(WAIT_FOR_LINE)
            raise SystemExit(1)
        raise InputError(line)
    if found and found.launcher == "srun":
        os.environ.update(torch_variables(found))


def _unlike(found: Launch, devices: int, nodes: int | None) -> str:
    """How what a launcher has started differs from what the config says; empty if it does not."""
    there = f"{found.launcher} started {counted(found.world, 'process')}"
    several = len(found.on_nodes) > 1
    if nodes is not None and len(found.on_nodes) != nodes:
        on = counted(len(found.on_nodes), "node")
        return f"{there} on {on}, but trainer.nodes={nodes}: make them the same"
    if len(set(found.on_nodes)) > 1:
        on = " and ".join(map(str, sorted(set(found.on_nodes))))
        return f"{there}, {on} on a node, but a run needs as many on each: use --ntasks-per-node={devices}"
    if found.world != devices * len(found.on_nodes):
        option = {"srun": "--ntasks-per-node", "torchrun": "--nproc-per-node"}[found.launcher]
        each = f", {found.on_nodes[0]} on each of {len(found.on_nodes)} nodes" * several
        return (
            f"{there}{each}, but trainer.devices={devices}: make them the same, with"
            f" trainer.devices={found.on_nodes[0]} or {found.launcher} {option}={devices}"
        )
    return ""


def _not_launched(devices: int, nodes: int | None) -> str:
    """Why this process, which no launcher has started with others, cannot train what the config says."""
    if VARIABLE in os.environ and not is_first_rank():  # the first rank, which has been checked, started this process
        return ""
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
            f"trainer.nodes={nodes} needs a launcher that starts the processes on each node: srun, or torchrun"
            f" --nnodes={nodes} --nproc-per-node={devices}"
        )
    for variable, launcher in OTHER_LAUNCHERS.items():
        if (started := number_in(variable)) > 1:
            return (
                f"{launcher} started {started} processes ({variable}), but each would train the whole run: start one"
                " (mpirun -n 1), or use srun, or torchrun --standalone --nproc-per-node=N and trainer.devices=N"
            )
    return ""


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


# The job of a sweep that this process runs.
_job = ""


def begin_job(number: int) -> None:
    """Note which job of a sweep begins, on every rank: what ranks told each other for the one before does not count."""
    global _job
    _job = f"-{number}"
    store.cache_clear()


@functools.cache
def store() -> Any:
    """The key-value store through which torchrun's processes find each other."""
    return connect()


def connect() -> Any:
    """A connection of its own to the store, for a thread: a connection serves one call after the other.

    The store outlives the processes, so that those that torchrun starts anew must not find the values of the ones
    before. Raises InputError if it cannot be reached.
    """
    from torch.distributed import DistError, PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if (found := launch()) and found.launcher == "srun":
        os.environ.update(torch_variables(found))
    try:
        shared, _, _ = next(rendezvous("env://"))
    except DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"the processes of this run cannot find each other at {place}: set"
            " TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, which restarts wrongly without it (pytorch issue"
            " 135712), and check that the machines reach each other"
        ) from error
    # Without torchrun's own store the first rank keeps a new one for each attempt. Machines count attempts differently.
    attempt = _attempt() if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    return PrefixStore(f"fastconv-{attempt}{_job}", shared)


def wait_for(name: str) -> bytes:
    """Wait, without a time limit, for a value in the store. A signal can end the wait."""
    shared = store()
    while not shared.check([name]):
        time.sleep(ASK_AGAIN_SECONDS)
    value: bytes = shared.get(name)
    return value


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


def end_after_first_rank() -> None:
    """End this process with code 1, after the first one has had time to say why all of them end.

    torchrun, srun or the first rank, which started them, ends all processes of a run as soon as one has failed.
    """
    parent, deadline = os.getppid(), time.monotonic() + WAIT_FOR_FIRST_RANK
    if started_together():
        while not _first_is_ending() and time.monotonic() < deadline:
            time.sleep(ASK_AGAIN_SECONDS / 10)
        time.sleep(TIME_TO_SAY)
    else:
        while os.getppid() == parent:  # the first rank
            time.sleep(ASK_AGAIN_SECONDS / 10)
    os._exit(1)


def alive(rank: int) -> str:
    """The key in the store under which a process says how it is: a growing number, ENDED or FAILED."""
    return f"alive/{rank}"


def _first_is_ending() -> bool:
    try:
        return store().check([alive(0)]) and store().get(alive(0)).decode() in (ENDED, FAILED)
    except Exception:  # torch raises several kinds when the store is gone
        return True


def lost_rank(error: BaseException) -> bool:
    """Whether an error means that another process of the run is gone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
