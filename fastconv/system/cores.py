"""The processor cores that threads of this process may run on."""

import os


def core_count() -> int:
    """The number of cores that this process may use. A job on a cluster may have a few of a machine's: more threads
    would not be faster, but each of them holds an image or more in memory."""
    allowed = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(allowed(0)) if allowed else os.cpu_count() or 1
