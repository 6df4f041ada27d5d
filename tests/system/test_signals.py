"""Signals that ask this process to end, and those that do not."""

import os
import signal
import subprocess
import sys

import pytest
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from fastconv.system.cluster import end_processes
from fastconv.system.signals import Interrupted, ending, listening, pass_over_warning, received


def test_a_run_that_ends_with_its_job_passes_over_the_warning():
    with listening():
        pass_over_warning()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert received() is None
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGUSR1"), listening():
        os.kill(os.getpid(), signal.SIGUSR1)


def test_only_one_process_alone_knows_that_its_job_is_preempted(monkeypatch):
    """torchrun sends SIGTERM to all ranks when one has failed: the job would be requeued, and fail, for ever."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Interrupted(signal.SIGTERM).goes_on
    assert not Interrupted(signal.SIGUSR1).goes_on
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not Interrupted(signal.SIGTERM).goes_on


def test_the_ranks_of_a_run_that_failed_end_and_the_first_one_goes_on():
    """Lightning watches them, and would kill the first one as soon as one of them has failed."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    first, others = subprocess.Popen(sleep), [subprocess.Popen(sleep), subprocess.Popen(sleep)]
    observer, started = _ChildProcessObserver(first.pid, others, sleep_period=0), list(others)
    try:
        assert not observer._run()
        end_processes(others)
        assert [each.poll() for each in started] == [-signal.SIGKILL] * 2
        observer.run()  # to its end: it has nobody to watch
        assert first.poll() is None
    finally:
        for each in (first, *started):
            each.kill()
            each.wait()


def test_slurm_does_not_end_a_process_before_it_has_said_that_it_requeues_its_job():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with ending():
            os.kill(os.getpid(), signal.SIGTERM)
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
