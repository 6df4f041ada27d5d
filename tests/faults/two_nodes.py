"""Two machines on this one: network namespaces with an address each, whose processes see folders of their own.

Needs root and `ip`; `why_not` says what is missing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY, SCRIPT

PORT = 29517
FIRST, SECOND = ADDRESSES = "10.77.0.1", "10.77.0.2"


@dataclass(frozen=True)
class Node:
    """A machine: its name, which is that of its namespace too, its address, and its folder."""

    name: str
    address: str
    folder: Path
    hidden: Path
    """The folder of the other machine, which processes here cannot see."""


def why_not() -> str:
    """Why two nodes cannot be made here; empty if they can."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "unshare"))):
        return "two nodes need Linux with ip and unshare"
    name = f"fc{os.getpid()}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns is not possible: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other through a cable, each with an empty folder; the first one's is `folder`/first."""
    folders = [folder / "first", folder / "second"]
    nodes = tuple(Node(f"fc{os.getpid()}{'ab'[at]}", ADDRESSES[at], folders[at], folders[1 - at]) for at in range(2))
    try:
        for node in nodes:
            node.folder.mkdir(parents=True)
            _ip("netns", "add", node.name)
        ends = [f"v{node.name}" for node in nodes]
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for node, end in zip(nodes, ends, strict=True):
            _ip("link", "set", end, "netns", node.name)
            _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", end)
            _ip("-n", node.name, "link", "set", end, "up")
            _ip("-n", node.name, "link", "set", "lo", "up")
        yield nodes
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.name], check=False, capture_output=True)


def cut(node: Node) -> None:
    """Take the cable out of a node: what it sends is lost, and its connections stay open."""
    _ip("-n", node.name, "link", "set", f"v{node.name}", "down")


def torchrun(
    node: Node,
    nodes: str,
    data: Path,
    *overrides: str,
    restarts: int = 0,
    ranks: int = 1,
    store: str = FIRST,
    **environment: str,
) -> subprocess.Popen:
    """torchrun on a node; what it prints goes to out.txt and err.txt in the node's folder.

    Args:
        nodes: how many nodes take part, such as `2` or `1:2`.
        overrides: of `fastconv.train`.
        ranks: how many there are on each node.
        store: address of the node that has the store through which torchruns find each other.
    """
    settings = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "FASTCONV_DATA": str(data),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
        "GLOO_SOCKET_IFNAME": f"v{node.name}",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        **environment,
    }
    # What is mounted here is mounted for this process and its children alone.
    alone = ["unshare", "--mount", "--propagation=private", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    command = ["ip", "netns", "exec", node.name, *alone, str(node.hidden), sys.executable, "-m",
               "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}",
               "--rdzv-backend=c10d", "--rdzv-id=fastconv", f"--rdzv-endpoint={store}:{PORT}",
               f"--rdzv-conf=is_host={int(node.address == store)},read_timeout=600,join_timeout=900",
               f"--local-addr={node.address}", str(SCRIPT), f"trainer.devices={ranks}", *overrides]  # fmt: skip
    with (node.folder / "out.txt").open("a") as out, (node.folder / "err.txt").open("a") as err:
        return subprocess.Popen(command, cwd=node.folder, env=settings, stdout=out, stderr=err)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
