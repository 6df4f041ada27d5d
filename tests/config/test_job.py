"""The jobs of a sweep in this process."""

import errno
import os
import signal

import pytest

from fastconv.config import job as jobs
from fastconv.config.job import Job
from fastconv.config.overrides import compose
from fastconv.config.sweeps import Sweep
from fastconv.runs.folder import RunningElsewhereError
from fastconv.system import distributed
from fastconv.system.errors import InputError, SharedError
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


def test_a_job_that_failed_before_its_sweep_was_killed_is_begun_anew(tmp_path):
    """Else the sweep that goes on would fail for a job that is finished now."""
    markers = [tmp_path / f"{jobs.FAILED}{number}" for number in range(2)]
    for marker in markers:
        marker.touch()
    composed = compose("train", ["dataset=digits"], with_hydra=True)
    Job("train", lambda config: None, full_error=False).run_all(Sweep("train", (), (), tmp_path, (composed,)))
    assert [marker.exists() for marker in markers] == [False, True]


@pytest.fixture
def ended_by(tmp_path, monkeypatch):
    """Runs the two jobs of a sweep on a rank of two, each of which ends in the same error; the jobs that were begun."""
    begun = []

    def run(rank, error):
        def body(config):
            begun.append(config.seed)
            raise error

        monkeypatch.setenv("RANK", str(rank))
        both = tuple(compose("train", ["dataset=digits", f"seed={seed}"], with_hydra=True) for seed in range(2))
        job = Job("train", body, full_error=False)
        job.has_ranks = True
        job.run_all(Sweep("train", (), (), tmp_path, both))
        return job

    return run, begun


@pytest.mark.parametrize("rank", [0, 1])
def test_jobs_that_end_all_ranks_alike_fail_on_the_first_rank(ended_by, capsys, rank):
    """The others end well: a launcher would else end the first one while it reports on the sweep."""
    run, begun = ended_by
    assert run(rank, SharedError("training diverged")).failed == (rank == 0)
    assert begun == [0, 1]
    assert capsys.readouterr().err.count("training diverged") == (0 if rank else 2)


def test_what_the_first_rank_has_told_the_others_fails_the_job_alone(ended_by, monkeypatch):
    run, begun = ended_by
    error = InputError("no time for a step")
    monkeypatch.setattr(distributed, "_told", error)
    assert run(0, error).failed
    assert begun == [0, 1]


@pytest.mark.parametrize(("ranks", "is_left"), [(1, False), (2, False), (2, True)])
def test_a_first_rank_trains_no_job_that_the_others_have_left(tmp_path, monkeypatch, capsys, ranks, is_left):
    """In a job of SLURM, the others have left this job when the first one heard that another process has it."""
    begun = []

    def body(config):
        begun.append(config.seed)
        if len(begun) == 1:
            raise RunningElsewhereError(tmp_path / "0")

    monkeypatch.setattr(jobs, "world", lambda: ranks)
    monkeypatch.setattr(jobs, "wait_until_free", lambda folder: None)
    monkeypatch.setattr(jobs, "is_over", lambda folder: not is_left)
    job = Job("train", body, full_error=False)
    job.run_all(Sweep("train", (), (), tmp_path, (compose("train", ["dataset=digits"], with_hydra=True),)))
    assert job.failed == is_left
    assert len(begun) == (1 if is_left else 2)
    assert ("job 0: the other process did not finish it" in capsys.readouterr().err) == is_left


@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_that_each_rank_refuses_by_itself_stops_no_other_job(ended_by, monkeypatch, rank):
    run, begun = ended_by
    monkeypatch.setattr(jobs, "have_all_left_job", lambda: True)
    assert run(rank, InputError("the images do not fit on the device")).failed == (rank == 0)
    assert begun == [0, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_alone_begins_no_further_job(ended_by, monkeypatch, capsys, rank):
    """The others end: it would wait for them in the next job, where no launcher ends it."""
    run, begun = ended_by
    monkeypatch.setattr(jobs, "have_all_left_job", lambda: False)
    with pytest.raises(SystemExit) as end:
        run(rank, InputError("a process of this run is gone, so this one ends too"))
    assert (end.value.code, begun) == (1, [0])
    assert "fastconv: job 0: a process of this run is gone" in capsys.readouterr().err


NO_MEMORY = [
    MemoryError("Unable to allocate 3.64 TiB for an array with shape (1000000000000,)"),
    MemoryError(),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has 1 GiB free"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=repr)
def test_too_little_memory_is_one_line(ended_by, monkeypatch, capsys, error):
    """As under `ulimit -v`, or on a GPU."""
    run, begun = ended_by
    monkeypatch.setattr(jobs, "have_all_left_job", lambda: True)
    assert run(0, error).failed
    assert begun == [0, 1]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["fastconv", "fastconv"]
    assert all("there is too little memory" in line and "ulimit -v" in line for line in lines)


@pytest.mark.parametrize(
    "error", [ImportError("x.so: failed to map segment from shared object: Operation not permitted"), RuntimeError("?")]
)
def test_other_faults_have_a_traceback(ended_by, monkeypatch, capsys, error):
    run, _ = ended_by
    monkeypatch.setattr(jobs, "have_all_left_job", lambda: True)
    run(0, error)
    assert "Traceback" in capsys.readouterr().err
