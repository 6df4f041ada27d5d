"""The words before `-m fastconv.train` by which a run is started again as it was started this time."""

import os

from fastconv.system.cluster import Launch, around_torchrun, is_open_mpi, launch, number_in


def start_words() -> str:
    """`python`, or with the launcher that has started the processes of this run, such as `mpirun -n 2 python`. What a
    user must fill in, since the launcher did not tell it, is in capitals: on several nodes their names."""
    found = launch()
    if found is None:
        return "python"
    if found.launcher != "torchrun":
        return f"{_of(found)} python"
    outer = around_torchrun()  # one torchrun in each of its processes
    return f"{_of(outer)} {_of(found)}" if outer else _of(found)


def _of(found: Launch) -> str:
    nodes, each = len(found.on_nodes), found.on_nodes[0]
    if found.launcher == "srun":
        return f"srun --nodes={nodes} --ntasks-per-node={each}"
    if found.launcher == "torchrun":
        place = f"--nnodes={nodes}", "--rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500"
        restarts = number_in("TORCHELASTIC_MAX_RESTARTS", 0)
        first, *rest = place if nodes > 1 else ("--standalone",)
        words = ["torchrun", first, f"--nproc-per-node={each}", *[f"--max-restarts={restarts}"] * (restarts > 0), *rest]
        return " ".join(words)
    if nodes == 1:
        return f"mpirun -n {each}"
    names = [name for name in ("MASTER_ADDR", "MASTER_PORT") if os.environ.get(name)]
    if is_open_mpi():
        return " ".join(
            [f"mpirun --hostfile HOSTS -N {each}", *(f"-x {name}={os.environ[name]}" for name in names[:1])]
        )
    given = (f"-genv {name} {os.environ[name]}" for name in names)
    return " ".join([f"mpirun -f HOSTS -n {found.world} -ppn {each}", *given])
