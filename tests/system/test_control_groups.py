"""Limits of containers and jobs, as the kernel writes them: Docker's with its options, SLURM's and systemd's."""

import os

import pytest

from fastconv.system import control_groups
from fastconv.system.control_groups import cpu_quota, memory_left
from fastconv.system.cores import core_count

GIB = 2**30
NO_LIMIT = "9223372036854771712"  # of memory, in version 1
STAT = f"anon {GIB}\nfile {GIB}\ninactive_file {GIB // 4}\nactive_file {GIB // 2}"
STAT_1 = f"cache 1\ninactive_file 7\nactive_file 7\ntotal_inactive_file {GIB // 4}\ntotal_active_file {GIB // 2}"
# The content of /proc/self/cgroup, the files below /sys/fs/cgroup, and then the processors and bytes that are found.
SYSTEMS = {
    "docker": (
        "0::/\n",
        {"cpu.max": "250000 100000", "memory.max": str(4 * GIB), "memory.current": str(3 * GIB), "memory.stat": STAT},
        2.5,
        GIB + GIB // 2 + GIB // 4,
    ),
    "docker without a limit": (
        "0::/\n",
        {"cpu.max": "max 100000", "memory.max": "max", "memory.current": str(GIB), "memory.stat": STAT},
        None,
        None,
    ),
    "docker on version 1, whose path is that on the host": (
        "5:memory:/docker/0a1b\n4:cpu,cpuacct:/docker/0a1b\n1:name=systemd:/docker/0a1b\n0::/docker/0a1b\n",
        {
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(2 * GIB),
            "memory/memory.usage_in_bytes": str(2 * GIB),
            "memory/memory.stat": STAT_1,
        },
        0.5,
        GIB // 4 + GIB // 2,
    ),
    "a step of SLURM, limited by its job": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        {
            "system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.max": "max",
            "system.slice/slurmstepd.scope/job_7/memory.max": str(GIB),
            "system.slice/slurmstepd.scope/job_7/memory.current": str(2 * GIB),
            "system.slice/slurmstepd.scope/job_7/memory.stat": STAT,
            "system.slice/slurmstepd.scope/job_7/step_0/cpu.max": "800000 100000",
            "system.slice/slurmstepd.scope/job_7/cpu.max": "300000 100000",
            "cpu.max": "max 100000",
        },
        3.0,
        0,
    ),
    "version 1 without a limit": (
        "3:cpu:/\n2:memory:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
        None,
    ),
}


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Sets the groups of this process, and their files."""
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "root")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return write


@pytest.mark.parametrize(("own", "files", "processors", "left"), SYSTEMS.values(), ids=SYSTEMS.keys())
def test_the_least_limit_of_all_groups_holds(groups, own, files, processors, left):
    groups(own, files)
    assert (cpu_quota(), memory_left()) == (processors, left)


def test_other_systems_have_no_groups(groups, tmp_path):
    assert (cpu_quota(), memory_left()) == (None, None)
    groups("2:memory:/\n", {"memory/memory.limit_in_bytes": NO_LIMIT})
    assert memory_left() is None, "a part of the files is missing"


def test_the_name_of_a_group_may_be_any_bytes(groups, tmp_path):
    groups("", {"cpu.max": "50000 100000"})
    (tmp_path / "own").write_bytes(b"0::/caf\xe9\n")
    assert (cpu_quota(), memory_left()) == (0.5, None)


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("250000", 2), ("6400000", 8)])
def test_a_container_has_the_cores_of_its_quota(groups, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    groups("0::/\n", {"cpu.max": f"{quota} 100000"})
    assert core_count() == cores
