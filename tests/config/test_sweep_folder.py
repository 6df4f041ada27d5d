"""The folder of a sweep: one for all ranks, and after a restart the one that was begun; and what is refused before."""

import inspect
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import REPOSITORY

from fastconv import train
from fastconv.config import schema, sweeps
from fastconv.config.schema import Budget, Checkpoint, Config
from fastconv.config.search_space import Dimension
from fastconv.config.sweeps import DESCRIPTION, Sweep, begin
from fastconv.runs.results import Results
from fastconv.system.errors import InputError

# What a rank does at the start of a sweep: it prints its folder, and whether another rank keeps it.
RANK = """
import sys
from pathlib import Path
from fastconv.config.schema import Config, Trainer
from fastconv.config.sweeps import Sweep, begin
config = Config(trainer=Trainer(devices=2))
found = begin(Sweep("train", ("seed=0",), (config,), Path("outputs", sys.argv[1]), launcher="BasicLauncher",
                    may_have_ranks=True))
print(found.folder, found.is_kept_by_another)
"""


def test_all_ranks_work_in_the_folder_that_the_first_one_chooses(tmp_path):
    """Also on another machine, here another working folder. Each would draw a name of its own, and sweep.resume=auto
    could later take the one without runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in "01":
        (tmp_path / rank).mkdir()
        given = {
            "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", RANK, f"drawn-{rank}"]
        environment = {**os.environ, **given, "PYTHONPATH": paths}
        ranks.append(
            subprocess.Popen(command, cwd=tmp_path / rank, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
        )
    said = [process.communicate(timeout=600)[0].split() for process in ranks]
    assert said == [["outputs/drawn-0", "False"], ["outputs/drawn-0", "True"]]
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path("0", "outputs", "drawn-0", DESCRIPTION)
    ]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Begins a sweep of two jobs by the torchrun of some name, and returns its folder."""

    def begin_as(name, torchrun="", restarts=0, **settings):
        config = Config(outputs=str(tmp_path), sweep=schema.Sweep(**settings))
        monkeypatch.setattr(sweeps, "agent", lambda: torchrun)
        for variable, value in {"RUN_ID": "1", "RESTART_COUNT": str(restarts)}.items() if torchrun else ():
            monkeypatch.setenv(f"TORCHELASTIC_{variable}", value)
        return begin(Sweep("train", ("seed=0,1",), (config, config), tmp_path / "sweeps" / name)).folder

    return begin_as


def test_torchrun_goes_on_with_the_sweep_that_it_starts_anew(begun):
    assert begun("first").name == "first"
    assert begun("second", "a").name == "second", "another start of the same command is another sweep"
    assert begun("third", "a", restarts=1).name == "second"


def test_a_torchrun_that_has_counted_no_restart_goes_on_with_its_sweep_too(begun):
    """It counts none where a machine was lost or joined, or where a rank failed on another machine."""
    assert begun("first", "a").name == "first"
    assert begun("second", "b").name == "second"
    assert begun("third", "a").name == "first"
    assert begun("fourth", "b").name == "second"


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("resume", [None, "auto"])
def test_torchrun_does_not_train_its_finished_sweep_again(begun, restarts, resume):
    """Such as where a rank is killed while the first one draws the sweep's figures."""
    folder = begun("first", "a", resume=resume)
    for job in "01":
        (folder / job).mkdir()
        Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(folder / job)
    assert begun("second", "a", restarts, resume=resume) == folder
    assert begun("third", "b", resume=resume).name == "third", "another start of the same command"


def test_auto_goes_on_with_a_search_for_more_trials(tmp_path):
    """Also with one whose trials are all finished; one with another seed draws other trials, and a grid has none."""

    values = (Dimension("seed", "1,2", ("1", "2")),)

    def begun(name, trials, *overrides, space=values):
        config = Config(outputs=str(tmp_path), sweep=schema.Sweep(resume="auto", trials=trials if space else None))
        given = ("seed=1,2", f"sweep.trials={trials}", *overrides)
        return begin(Sweep("train", given, (config,) * trials, tmp_path / "sweeps" / name, space=space)).folder.name

    assert begun("grid", 2, space=()) == "grid"
    assert begun("first", 1) == "first"
    (tmp_path / "sweeps" / "first" / "0").mkdir()
    Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / "sweeps" / "first" / "0")
    assert begun("second", 2) == "first"
    assert begun("third", 2, "sweep.seed=1") == "third"
    assert begun("fourth", 1) == "fourth", "none is left to do"
    assert begun("fifth", 2, space=()) == "grid"


def test_a_sweep_that_does_not_train_needs_no_other_process(tmp_path, monkeypatch):
    """A shell that srun started on two nodes keeps variables of two processes, of which precompute waits for none."""
    for name, value in {"STEP_NUM_TASKS": "2", "STEP_TASKS_PER_NODE": "1(x2)", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = Config(outputs=str(tmp_path))
    assert config.trainer.world == 2
    monkeypatch.setattr(sweeps, "watching_ranks", lambda: pytest.fail("it looks for others"))
    found = begin(Sweep("train", ("part=0,1",), (config, config), tmp_path / "sweeps" / "first"))
    assert (found.folder.name, found.is_kept_by_another) == ("first", False)


def test_a_further_rank_reads_no_results_of_a_job(tmp_path, monkeypatch):
    """They may be on the disk of another machine. The first rank does, for a search."""
    run = tmp_path / "0"
    for name, value in {"task_overrides": [], "sweep_job_folder": run, "check_world": None, "check_run": None,
                        "end_with_first_rank": None}.items():  # fmt: skip
        monkeypatch.setattr(train, name, lambda *_, value=value: value)
    monkeypatch.setitem(sys.modules, "fastconv.training.run", SimpleNamespace(train=lambda *_: run))
    body, config = inspect.unwrap(train.main), Config(checkpoint=Checkpoint(save=False))
    monkeypatch.setenv("RANK", "1")
    assert body(config) is None
    monkeypatch.setenv("RANK", "0")
    run.mkdir()
    Results("digits", "davidnet", None, 0, 0, accuracy_holdout=0.5).write(run)
    assert body(config) == 0.5


def test_a_clock_time_is_refused_before_anything_is_written(tmp_path):
    config = Config(outputs=str(tmp_path), budget=Budget(until="18:30"))
    with pytest.raises(InputError, match=r"budget.until=18:30 is not possible in a sweep"):
        begin(Sweep("train", ("seed=0,1",), (config, config), tmp_path / "sweeps" / "first"))
    assert not list(tmp_path.iterdir())
