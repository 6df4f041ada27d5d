"""The part of a machine that a container or a job may use, where Linux shows them all of it: limits of control groups.

Docker's `--cpus` and `--memory`, limits of Kubernetes and those of SLURM are such. Nothing is found on other systems.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The groups of this process, and where their folders are.
OWN, ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cpu_quota() -> float | None:
    """Seconds of processors that this process may use in a second, with the others of its groups; None for no limit."""
    found: list[float] = []
    for folder in _groups("cpu"):
        for files in ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"):  # of version 2 and of version 1
            with suppress(OSError, ValueError):  # "max" is no number
                quota, period = map(int, " ".join((folder / file).read_text("utf-8") for file in files).split())
                found += [quota / period] * (quota > 0)
    return min(found, default=None)


def memory_left() -> int | None:
    """Bytes of memory that this process may still take, with the others of its groups; None for no limit, for which
    version 1 has a number that no machine reaches.

    What the system keeps of files on disks counts as free, since it is given back first.
    """
    found: list[int] = []
    for folder in _groups("memory"):
        for limit, used, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            with suppress(OSError, ValueError, KeyError):
                most, taken = (int((folder / file).read_text("utf-8")) for file in (limit, used))
                about = dict(line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines())
                files = sum(int(about[f"{prefix}{age}_file"]) for age in ("active", "inactive"))
                found.append(max(0, most - taken + files))
    return min(found, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those that it is in, whose limits all hold.

    In a container the path may be that outside of it: of its folders only the uppermost is there then, the container's.
    """
    with suppress(OSError):
        for line in os.fsdecode(OWN.read_bytes()).splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = ROOT / controller if controllers else ROOT
            folder = root / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))
