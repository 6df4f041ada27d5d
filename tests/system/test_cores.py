"""A job on a cluster may use a few of a machine's cores: threads beyond them would only take memory."""

import os
import threading
import time

import pytest

from fastconv.data.sources.decode import _in_order
from fastconv.system.cores import core_count


@pytest.fixture(autouse=True)
def no_quota(monkeypatch):
    """The tests may run in a container that has one."""
    monkeypatch.setattr("fastconv.system.cores.cpu_quota", lambda: None)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_the_cores_of_a_job_are_those_that_it_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        assert core_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert core_count() == len(allowed)


def test_other_systems_have_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert core_count() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert core_count() == 1


def test_as_many_images_are_decoded_at_a_time(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 9}, raising=False)

    def work(part: range) -> int:
        time.sleep(0.001)  # so that the next part finds this thread at work
        return threading.get_ident()

    assert len(set(_in_order(work, 200, 1))) <= 2
