"""The processor cores that threads of this process may use."""

import os

from fastconv.system.control_groups import cpu_quota


def core_count() -> int:
    """The number of cores that this process may use. A job or a container may have a few of a machine's: more threads
    would not be faster, but each of them holds an image or more in memory."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))  # a part of a core would hold up the others
