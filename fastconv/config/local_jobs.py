"""The jobs that submitit's launcher for this machine has started: they end with the command that started them."""

import os
import signal
import sys
import time
from contextlib import suppress

from fastconv.system.process import descendants

# The module of the process that starts a job and, at SIGINT, ends it. It outlives the command.
CONTROLLER = "submitit.local._local"
# Seconds for controllers to end by themselves, since a terminal's Ctrl-C reaches them too: within one they kill a job
# that has not ended, which a second SIGINT would keep them from. And seconds for those to end that were told to.
ENDS_ITSELF, TO_END = 3.0, 5.0


def end_local_jobs() -> None:
    """End the jobs that submitit runs on this machine for this command, which a signal ends.

    Their runs go on from their last checkpoints. Where the system does not say which these are (elsewhere than on
    Linux), Ctrl-C in a terminal still ends them.
    """
    if "submitit" not in sys.modules:
        return
    for process in _left_after(ENDS_ITSELF):
        with suppress(OSError):  # it has just ended
            os.kill(process, signal.SIGINT)
    _left_after(TO_END)


def _left_after(seconds: float) -> list[int]:
    """The controllers that have not ended so long after."""
    deadline = time.monotonic() + seconds
    while (left := descendants(CONTROLLER)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
