"""The processes (ranks) of one run: which one is the first, and how it shares values with the others.

Lightning starts the other ranks by running the command again once the first one is ready to train; torchrun starts all
ranks at once.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from fastconv.system.errors import InputError

# Environment variable by which the first rank passes values to the processes that it starts.
VARIABLE = "FASTCONV_FIRST_RANK"
ASK_AGAIN_SECONDS = 1.0


def rank() -> int:
    """This process's rank in its run."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def is_first_rank() -> bool:
    """Whether this process is the one that plans, writes files and prints."""
    return rank() == 0


def started_by_torchrun() -> bool:
    """Whether all ranks were started at once, by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


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
    """Raise InputError if the number of processes that torchrun started differs from `trainer.devices`."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if started_by_torchrun() and world != devices:
        raise InputError(f"torchrun started {world} processes, but trainer.devices={devices}: make them the same")


def from_first_rank(name: str, make: Callable[[], Any]) -> Any:
    """Call `make` on the first rank and return its value on every rank.

    Args:
        name: identifies the value; the same on every rank, and different for each value.
        make: called on the first rank only; returns a value that JSON can hold.
    """
    first = is_first_rank()
    if started_by_torchrun():
        if first:
            _store().set(name, json.dumps(make()))
        return json.loads(_wait_for(name))
    told = json.loads(os.environ.get(VARIABLE, "{}"))
    if first:
        told[name] = make()
        os.environ[VARIABLE] = json.dumps(told)
    return told[name]


def _store() -> Any:
    """The key-value store through which torchrun's processes find each other."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return PrefixStore("fastconv", store)


def _wait_for(name: str) -> bytes:
    """Wait, without a time limit, for a value from the first rank. A signal can end the wait."""
    store = _store()
    while not store.check([name]):
        time.sleep(ASK_AGAIN_SECONDS)
    value: bytes = store.get(name)
    return value


def lost_rank(error: BaseException) -> bool:
    """Whether an error means that another process of the run is gone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
