"""How the threads of torch's OpenMP wait for each other. Nothing here imports torch, which reads it while it loads."""

import os
import sys

# Variables by which a user sets how long a thread spins before it sleeps: OpenMP's own, GNU's (libgomp, which torch's
# wheels for Linux have) and LLVM's or Intel's (libomp).
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let threads that wait sleep instead of spin, unless the user has set how they wait or torch is loaded already.

    A thread that spins keeps a core from the one that it waits for, if other work runs on the machine.
    """
    if "torch" not in sys.modules and not any(variable in os.environ for variable in VARIABLES):
        os.environ["OMP_WAIT_POLICY"] = "passive"
