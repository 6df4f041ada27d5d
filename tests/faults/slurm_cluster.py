"""A real SLURM of two nodes on this host: slurmctld, two slurmd and munged, in a folder of their own.

python slurm_cluster.py FOLDER COMMAND ... starts it, runs the command with SLURM_CONF set, and ends it. It needs
root and Debian's packages slurm-wlm and munge.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("node0", "node1")
PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "scontrol", "squeue")
# As many CPUs as the tests' jobs ask for, whatever the host has: nothing here depends on speed.
CPUS = 4
# Seconds until SLURM starts a requeued job again: it waits until the credentials of the first start are void.
AGAIN = 30
# A job of the first two partitions makes room for one of the third. A signal comes first, and SLURM ends it after
# GraceTime, or once it has ended by itself.
CONFIG = """
ClusterName=fastconv
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={again}
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=requeue_setup_env_fail,batch_sched_delay=1,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
InactiveLimit=0
MinJobAge=300
KillWait=30
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=60 State=UP GraceTime=0
PartitionName=patient Nodes={names} MaxTime=60 State=UP GraceTime=600
PartitionName=urgent Nodes={names} MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """What is missing to start SLURM here; empty if nothing is."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"SLURM is not installed here ({', '.join(absent)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "a SLURM of one's own needs root"


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """While the block runs, SLURM of two nodes; yields the environment variables with which its commands find it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge refuses a socket in a folder that others can write to
    (folder / "state").mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host, ports = socket.gethostname(), free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=4000 State=UNKNOWN"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, port=ports[0], folder=folder, nodes=nodes, names=",".join(NODES), again=AGAIN)
    )
    environment = {"SLURM_CONF": str(config)}
    for name in NODES:
        (folder / name).mkdir(exist_ok=True)
    munge = (f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid")
    commands = [
        ["munged", "--foreground", "--force", *munge, f"--log-file={folder}/munged.log", f"--seed-file={folder}/seed"],
        ["slurmctld", "-D", "-c", "-f", str(config)],
        *(["slurmd", "-D", "-N", name, "-f", str(config)] for name in NODES),
    ]
    started = []
    try:
        for command in commands:
            with (folder / f"{command[0]}-{len(started)}.out").open("w") as out:
                process = subprocess.Popen(
                    command, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
                )
            started.append(process)
            if command[0] == "munged":
                wait_for(lambda: (folder / "munge.socket").exists(), "munged did not start")
        wait_for(lambda: idle_nodes(environment) == len(NODES), f"the nodes did not start: see {folder}")
        yield environment
    finally:
        if len(started) > 1:
            ended = {**os.environ, **environment}
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], env=ended, capture_output=True)
            subprocess.run(["scancel", "--user=root"], env=ended, capture_output=True)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def idle_nodes(environment: dict[str, str]) -> int:
    """The number of nodes that can take a job."""
    said = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%N %t"], env={**os.environ, **environment}, capture_output=True, text=True
    )
    lines = set(said.stdout.splitlines())  # sinfo has a line for each partition of a node
    return sum(line.split()[1] in ("idle", "mix", "alloc") for line in lines)


def free_ports(count: int) -> list[int]:
    """Ports of this host that nothing uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(happened, otherwise: str, seconds: float = 120.0) -> None:
    """Wait until something has happened; raise RuntimeError if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.1)


if __name__ == "__main__":
    if absent := missing():
        sys.exit(absent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end too
    with slurm_cluster(Path(sys.argv[1]).absolute()) as found:
        sys.exit(subprocess.run(sys.argv[2:], env={**os.environ, **found}).returncode)
