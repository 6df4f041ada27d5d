"""The jobs of a sweep in this process."""

import os
import signal

import pytest

from fastconv.config.job import Job
from fastconv.config.overrides import compose
from fastconv.config.sweeps import Sweep
from fastconv.system.errors import InputError
from fastconv.system.signals import Interrupted, defer, listening


def test_a_signal_while_a_job_fails_ends_the_sweep_before_the_next_one(tmp_path, capsys):
    """Such as in the step in which training diverges, before the end of which a signal takes no effect."""
    begun = []

    def body(config):
        begun.append(config.seed)
        defer(True)
        os.kill(os.getpid(), signal.SIGTERM)
        defer(False)
        raise InputError("training diverged")

    jobs = tuple(compose("train", ["dataset=digits", f"seed={seed}"], with_hydra=True) for seed in range(2))
    job = Job("train", body, full_error=False)
    with pytest.raises(Interrupted, match="SIGTERM"), listening():
        job.run_all(Sweep("train", (), (), tmp_path, jobs))
    assert begun == [0]
    assert "job 0: training diverged" in capsys.readouterr().err
