"""How the threads of torch's OpenMP wait for each other. Nothing here imports torch, which reads it while it loads."""

import os
import sys

# Variables by which a user sets how long a thread spins before it sleeps: OpenMP's own, GNU's (libgomp, which torch's
# wheels for Linux have) and LLVM's or Intel's (libomp).
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


# How often a waiting thread looks before it sleeps. Images/s of two threads on two AVX2 cores (8-32-32): alone 2,010 to
# 2,050 (n = 3), with GNU's own 300,000 looks 2,020 to 2,160, with none 1,400 to 1,800; beside one busy loop 616, with
# none 1,146 (n = 1). Beside other work fewer threads are faster still (`trainer.num_threads`): 1,311.
SPINS = 10_000


def wait_briefly() -> None:
    """Let threads that wait soon sleep instead of spin, unless the user has set how they wait or torch is loaded
    already.

    A thread that spins keeps a core from the one that it waits for, if other work runs on the machine; one that sleeps
    at once is late for the next layer.
    """
    if "torch" not in sys.modules and not any(variable in os.environ for variable in VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
