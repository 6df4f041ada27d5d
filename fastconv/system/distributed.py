"""The processes (ranks) of one run: which one is the first, and how it shares values with the others.

Lightning starts the other ranks by running the command again once the first one is ready to train; torchrun starts all
ranks at once.
"""

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastconv.system.errors import InputError, SharedError, reason

# Environment variable by which the first rank passes values to the processes that it starts.
VARIABLE = "FASTCONV_FIRST_RANK"
ASK_AGAIN_SECONDS = 1.0
# Seconds that other ranks give the first one to say why all of them end.
WAIT_FOR_FIRST_RANK = 5.0
# Variables in which launchers say how many processes they started. SLURM_NTASKS says only how many a job may have.
LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "WORLD_SIZE": "a launcher",
}


def rank() -> int:
    """This process's rank in its run."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def is_first_rank() -> bool:
    """Whether this process is the one that plans, writes files and prints."""
    return rank() == 0


def started_by_torchrun() -> bool:
    """Whether all ranks were started at once, by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_restarted() -> bool:
    """Whether torchrun starts the ranks anew, since one of them ended before (`--max-restarts`)."""
    return _attempt() > 0


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if started_by_torchrun() else 0


def end_with_first_rank() -> None:
    """End this process soon after the first rank has ended, if the first rank started it, even while it waits."""
    if started_by_torchrun():
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


def check_world(devices: int) -> None:
    """Raise InputError unless as many processes will train this run as `trainer.devices` says.

    torchrun starts all of them; else this process starts the others itself. So it must not be one of several processes
    that something else started, each of which would take itself for the whole run.
    """
    world = _number("WORLD_SIZE")
    if started_by_torchrun():
        if world != devices:
            raise InputError(f"torchrun started {world} processes, but trainer.devices={devices}: make them the same")
        return
    if VARIABLE in os.environ and not is_first_rank():  # the first rank, which has been checked, started this process
        return
    if devices > 1 and _in_slurm_job():
        raise InputError(
            f"trainer.devices={devices} is not possible in a SLURM job (SLURM_NTASKS={_number('SLURM_NTASKS')}), since"
            " fastconv does not train across SLURM's tasks yet. Set trainer.devices=1, or start one task (srun"
            f" --ntasks=1) with torchrun --standalone --nproc-per-node={devices} -m fastconv.train, or the command"
            " without SLURM's variables (env -u SLURM_NTASKS)"
        )
    for variable, launcher in LAUNCHERS.items():
        if (started := _number(variable)) > 1:
            raise InputError(
                f"{launcher} started {started} processes ({variable}), but each would train the whole run: start one"
                " (srun --ntasks=1, mpirun -n 1), or use torchrun --standalone --nproc-per-node=N and"
                " trainer.devices=N"
            )


def _number(variable: str) -> int:
    """The number in an environment variable; 1 if there is none."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 1


def _in_slurm_job() -> bool:
    """Whether SLURM started this command: a job of an interactive shell only lends its machine."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def from_first_rank(name: str, make: Callable[[], Any]) -> Any:
    """Call `make` on the first rank and return its value on every rank.

    Args:
        name: identifies the value; the same on every rank, and different for each value.
        make: called on the first rank only; returns a value that JSON can hold.

    Raises what `make` raises on the first rank, and SharedError on the others.
    """
    first = is_first_rank()
    if started_by_torchrun():
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

    try:
        shared, _, _ = next(rendezvous("env://"))
    except DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"the processes of this run cannot find each other at {place}: set"
            " TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, which restarts wrongly without it (pytorch issue"
            " 135712), and check that the machines reach each other"
        ) from error
    return PrefixStore(f"fastconv-{_attempt()}", shared)


def wait_for(name: str) -> bytes:
    """Wait, without a time limit, for a value in the store. A signal can end the wait."""
    shared = store()
    while not shared.check([name]):
        time.sleep(ASK_AGAIN_SECONDS)
    value: bytes = shared.get(name)
    return value


def world() -> int:
    """Number of processes that a launcher has started for this run, as it says."""
    return _number("WORLD_SIZE")


def end_after_first_rank() -> None:
    """End this process with code 1, after the first one has had time to say why all of them end.

    A launcher ends all processes of a run as soon as one has failed.
    """
    parent, deadline = os.getppid(), time.monotonic() + WAIT_FOR_FIRST_RANK
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(ASK_AGAIN_SECONDS / 10)
    os._exit(1)


def lost_rank(error: BaseException) -> bool:
    """Whether an error means that another process of the run is gone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
