"""The key-value store through which the processes of a run find each other and tell each other values."""

import functools
import os
import time
from typing import Any

from fastconv.system.cluster import attempt, launch, set_torch_variables
from fastconv.system.errors import InputError

ASK_AGAIN_SECONDS = 1.0

# The job of a sweep, or call of `fastconv.fit`, that this process runs.
_job = ""


def begin_job(number: int) -> None:
    """Note on every rank which job of a sweep, or call of `fastconv.fit`, begins: what ranks told each other for the
    one before does not count."""
    global _job
    _job = f"-{number}"


def store() -> Any:
    """The store, by the connection of the main thread."""
    return _of_this_run(_connection())


def is_connected() -> bool:
    """Whether this process has begun to tell the others values."""
    return _connection.cache_info().currsize > 0


def has_other_keeper() -> bool:
    """Whether torchrun keeps the store, and not the first process."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def connect() -> Any:
    """The store by a connection of its own, for a thread: a connection serves one call after the other."""
    _connection()
    return _of_this_run(_connect())


def wait_for(name: str) -> bytes:
    """Wait, without a time limit, for a value in the store. A signal can end the wait."""
    shared = store()
    while not shared.check([name]):
        time.sleep(ASK_AGAIN_SECONDS)
    value: bytes = shared.get(name)
    return value


def _of_this_run(shared: Any) -> Any:
    """The store without the values of others: it outlives such jobs, and processes that torchrun starts anew.

    Without torchrun's own store the first rank keeps a new one for each attempt. Machines count attempts differently.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    begun = attempt() if has_other_keeper() else 0
    return PrefixStore(f"fastconv-{begun}{_job}", shared)


@functools.cache
def _connection() -> Any:
    """The first connection, which lasts as long as the process: on the first rank, which may keep the store, others
    could else connect to a store that is about to end, that of the job before."""
    return _connect()


def _connect() -> Any:
    """Connect to the store. Raises InputError if it cannot be reached."""
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    set_torch_variables()
    try:
        shared, _, _ = next(rendezvous("env://"))
    except DistError as error:
        found = launch()
        advice = (
            "check that MASTER_ADDR is the first process's machine, and MASTER_PORT free there"
            if found and found.launcher != "torchrun"
            else "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, which restarts wrongly without it (pytorch"
            " issue 135712), and check that the machines reach each other"
        )
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(f"the processes of this run cannot find each other at {place}: {advice}") from error
    return shared
