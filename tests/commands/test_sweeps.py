"""Sweeps: many runs by one command, in this process or by way of a launcher, and going on with them."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import yaml
from harness import files, finish, only_run, run_command, stop_at
from omegaconf import OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fastconv.config.overrides import compose
from fastconv.config.resume import job_of_sweep
from fastconv.config.store import stored
from fastconv.config.sweeps import _newest, override_of, remove_empty
from fastconv.config.typed_config import typed as typed_config
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.train import report
from fastconv.training import run as runs

# The shortest run: a few steps of a tiny network.
SHORT = ("model.width=4", "stream=online", "budget.seconds=null", "schedule.max_epochs=0.3", "validate.on=none",
         "checkpoint.save=false")  # fmt: skip
# Two processes of one thread each, as a launcher on two cores divides them.
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")

SEARCH = ("train", "experiment=search", "dataset=digits", *SHORT[:-2], "checkpoint.save=false",
          "sweep.trials=3")  # fmt: skip


def sweeps(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "sweeps").iterdir())


def results_of(sweep: Path) -> dict[str, Results]:
    return {job.parent.name: Results.read(job.parent) for job in sorted(sweep.glob("*/results.json"))}


@pytest.fixture
def grid(command, monkeypatch):
    """Runs a sweep with further overrides; the jobs that did plan a run, and the one that fails."""
    planned, plan_run = [], runs.plan_run

    def plan(config, *others):
        planned.append((config.schedule.name, config.optimizer.max_lr, config.seed))
        if planned[-1] == grid.fails:
            raise RuntimeError("out of paper")
        return plan_run(config, *others)

    def grid(*overrides):
        planned.clear()
        return command("train", "-m", "dataset=digits", *SHORT, *overrides), list(planned)

    monkeypatch.setattr(runs, "plan_run", plan)
    grid.fails = None
    return grid


@pytest.mark.parametrize(
    ("values", "numbers", "failing"),
    [
        (("schedule=one_cycle,constant", "optimizer.max_lr=0.1", "seed=0,1"), [1, 2], 3),
        pytest.param(
            ("schedule=one_cycle,constant", "optimizer.max_lr=0.1,0.2", "seed=0,1,2"), [2, 3, 3, 3], 7,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["2x1x2", "2x2x3"],
)  # fmt: skip
def test_a_job_that_fails_is_shown_and_is_all_that_resume_runs(grid, command, tmp_path, values, numbers, failing):
    grid.fails = ("constant", 0.1, 1)
    ended, planned = grid(*values)
    assert ended.code == 1
    assert len(planned) == sum(numbers) + 1
    assert f"fastconv: job {failing}: RuntimeError: out of paper" in ended.err
    (sweep,) = sweeps(tmp_path)
    assert sum(each.stop_reason == "epochs" for each in results_of(sweep).values()) == sum(numbers)
    assert f"{sweep.relative_to(tmp_path)}/{failing}: RuntimeError: out of paper" in ended.out
    table = json.loads(command("compare", f"runs={sweep}", "format=json").out)
    assert sorted(row["n"] for row in table) == numbers
    assert [row["not finished"] for row in table if row["n"] == numbers[0]] == [1]
    varied = {value.partition("=")[0] for value in values if "," in value} - {"seed"}
    assert varied < set(table[0])
    others = results_of(sweep).keys() - {str(failing)}
    before = {name: (sweep / name / "results.json").stat().st_mtime_ns for name in others}

    grid.fails = None
    ended, planned = grid(*values, "sweep.resume=auto")
    assert (ended.code, planned) == (0, [("constant", 0.1, 1)])
    assert sweeps(tmp_path) == [sweep], "the newest that is not whole"
    assert {name: (sweep / name / "results.json").stat().st_mtime_ns for name in before} == before
    assert all(each.stop_reason == "epochs" and each.error is None for each in results_of(sweep).values())
    assert (sweep / "compare.html").exists()


def test_a_job_that_starts_again_does_not_train_its_finished_sweep_again(grid, tmp_path, monkeypatch):
    """One that SLURM requeues while it works on what follows. Another job begins its own."""
    values = ("optimizer.max_lr=0.1,0.2", "schedule.max_epochs=0.1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ended, planned = grid(*values)
    assert (ended.code, len(planned)) == (0, 2), ended.err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ended, planned = grid(*values)
    assert (ended.code, planned) == (0, []), ended.err
    (sweep,) = sweeps(tmp_path)
    assert [f"{sweep.relative_to(tmp_path)}/{number} is finished" in ended.out for number in "01"] == [True, True]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    ended, planned = grid(*values)
    assert (ended.code, len(planned), len(sweeps(tmp_path))) == (0, 2, 2), ended.err


@pytest.mark.parametrize(
    ("job", "found"),
    [("1", "left-1"), ("2", "whole-2"), ("3", "whole-3"), ("4", "left-1")],
    ids=["own, unfinished", "own, finished", "the newest of its own", "none of its own"],
)
def test_a_job_that_starts_again_goes_on_with_its_own_sweep(tmp_path, monkeypatch, job, found):
    """The newest that it has begun, unfinished ones first; that of another job only if it has none."""
    asked = {"command": "train", "overrides": ["seed=0"], "jobs": 1}
    for name in ("left-1", "whole-1", "whole-2", "whole-3"):
        (tmp_path / name / "0").mkdir(parents=True)
        jobs = ["3", "2"] if name == "whole-2" else [name[-1]]
        (tmp_path / name / "sweep.yaml").write_text(yaml.safe_dump(asked | {"slurm_jobs": jobs}))
        if name.startswith("whole"):
            Results("digits", "davidnet", None, 0, 0, stop_reason="epochs").write(tmp_path / name / "0")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert _newest(tmp_path, asked) == tmp_path / found
    assert _newest(tmp_path, asked | {"jobs": 2, "overrides": []}) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert _newest(tmp_path, asked) == tmp_path / "left-1"


def test_auto_begins_a_new_sweep_if_none_is_left_to_do(command, tmp_path):
    sweep = ("train", "-m", "seed=0", *SHORT, "sweep.resume=auto")
    assert command(*sweep).code == 0
    assert command(*sweep).code == 0
    assert len(sweeps(tmp_path)) == 2
    (first, second) = sweeps(tmp_path)
    (second / "0" / "results.json").unlink()
    (first / "0" / "results.json").unlink()
    assert command(*sweep, "seed=0,1").code == 0, "other values are another sweep"
    assert len(sweeps(tmp_path)) == 3
    assert command(*sweep).code == 0
    assert len(sweeps(tmp_path)) == 3
    assert (second / "0" / "results.json").exists()
    assert not (first / "0" / "results.json").exists()


def test_folders_of_one_second_differ():
    folders = [compose("train", [], with_hydra=True).hydra.sweep.dir for _ in range(5)]
    assert len(set(folders)) == 5
    assert len({folder[: len("outputs/sweeps/2026-11-25_09-00")] for folder in folders}) <= 2


@pytest.mark.slow
def test_two_sweeps_of_one_second_do_not_touch_each_other(tmp_path, digits_root):
    command = [sys.executable, "-m", "fastconv.train", "-m", "seed=0,1", *SHORT, f"data={digits_root}"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    found = sweeps(tmp_path)
    assert len(found) == 2
    for sweep in found:
        assert [each.stop_reason for each in results_of(sweep).values()] == ["epochs"] * 2


def test_a_sweep_that_only_plans_leaves_nothing(command, tmp_path):
    ended = command("train", "-m", "seed=0,1", *SHORT, "dry_run=true")
    assert ended.code == 0
    assert [name for name in files(tmp_path) if not name.startswith("data")] == []


def test_an_error_of_the_program_shows_its_traceback(grid):
    grid.fails = ("one_cycle", 0.1, 0)
    ended, _ = grid("seed=0", "schedule=one_cycle", "optimizer.max_lr=0.1")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "fastconv: job 0: RuntimeError: out of paper" in ended.err


LAUNCHED = ("train", "-m", "optimizer.max_lr=1000,0.1", *SHORT, "trainer.num_threads=1", "trainer.precision=fp32",
            "schedule.max_epochs=0.8")  # fmt: skip


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory, digits_root):
    """Results of a sweep of two jobs, of which the first diverges."""
    folder = tmp_path_factory.mktemp("one-process")
    assert run_command(folder, digits_root, *LAUNCHED).code == 1
    (sweep,) = sweeps(folder)
    return results_of(sweep)


# It starts an interpreter for each job.
SUBMITIT = pytest.param(("hydra/launcher=submitit_local",), marks=pytest.mark.slow)


@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit"])
def test_launchers_give_what_one_process_gives(command, tmp_path, in_one_process, launcher):
    """With as many threads, to the bit; one job diverges, which does not stop the other."""
    ended = command(*LAUNCHED, *launcher)
    assert ended.code == 1
    (sweep,) = sweeps(tmp_path)
    found = results_of(sweep)
    assert list(found) == list(in_one_process) == ["0", "1"]
    for one, other in zip(found.values(), in_one_process.values(), strict=True):
        assert (one.accuracy, one.loss, one.error) == (other.accuracy, other.loss, other.error)
    assert "training diverged" in found["0"].error
    assert "training diverged" in ended.out


@pytest.mark.slow
def test_threads_change_no_more_than_the_order_of_sums(command, tmp_path):
    """Two threads add in another order: after 11 steps losses agree to 1e-3, and so at most 2 of 359 answers differ."""
    assert command("train", "-m", "trainer.num_threads=1,2", *SHORT, "schedule.max_epochs=1").code == 0
    (sweep,) = sweeps(tmp_path)
    one, two = results_of(sweep).values()
    assert one.loss == pytest.approx(two.loss, abs=1e-3)
    assert one.accuracy == pytest.approx(two.accuracy, abs=2 / 359 + 1e-6)


# -- what a sweep is refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_root):
    """(folder, a whole sweep of two seeds in it)."""
    folder = tmp_path_factory.mktemp("whole")
    assert run_command(folder, digits_root, "train", "-m", "seed=0,1", *SHORT).code == 0
    return folder, sweeps(folder)[0]


def test_another_sweeps_folder_is_refused_before_anything_is_written(whole, digits_root):
    folder, sweep = whole
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    ended = run_command(folder, digits_root, "train", "-m", "seed=0,8,9", *SHORT, f"sweep.resume={sweep}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"is another sweep: {sweep}/1 has seed=1, not 8" in ended.err
    ended = run_command(folder, digits_root, "lr_find", "-m", "seed=0,1", *SHORT, f"sweep.resume={sweep}")
    assert "is a sweep of another command" in ended.err
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


@pytest.mark.parametrize("finishes", [True, False])
def test_a_job_that_another_process_has_is_left_to_it(whole, command, tmp_path, monkeypatch, finishes):
    """Whoever comes second trains the others and waits for it, and neither trains the run nor writes to its folder."""
    _, sweep = whole
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    for name in ("results.json", "last.ckpt", "config.yaml"):
        (copy / "0" / name).unlink(missing_ok=True)
    config = OmegaConf.to_object(stored(copy / "1"))
    config.seed = config.stream.seed = 0
    with closing(job_of_sweep(config, copy / "0")):
        with pytest.raises(InputError, match="running in another process"):
            job_of_sweep(config, copy / "0")
        before = files(copy / "0")

        def other_ends(folder):
            assert files(folder) == before
            if finishes:
                shutil.copy(sweep / "0" / "results.json", folder)

        monkeypatch.setattr("fastconv.config.job.wait_until_free", other_ends)
        ended = command("train", "-m", "seed=0,1", *SHORT, f"sweep.resume={copy}")
        assert f"job 0 is skipped: {copy}/0 is running in another process, which is left to finish it" in ended.out
        assert ended.code == (0 if finishes else 1), ended.err
        assert ("job 0: the other process did not finish it: go on with sweep.resume=" in ended.err) != finishes
    assert command("train", "-m", "seed=0,1", *SHORT, f"sweep.resume={copy}").code == 0


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path, digits_root):
    begin = [sys.executable, "-m", "fastconv.train", "-m", "seed=0,1,2,3", *SHORT, f"data={digits_root}"]
    command = [*begin, "sweep.resume=shared"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(each.communicate()[1], each.returncode) for each in both] == [("", 0), ("", 0)]
    found = results_of(tmp_path / "shared")
    assert [each.stop_reason for each in found.values()] == ["epochs"] * 4
    assert all(each.resumed == 0 for each in found.values())


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_one_of_two_gets_a_new_job(tmp_path, monkeypatch, links):
    """Between the look whether a run is there and its beginning another process may begin it."""
    config = typed_config("train", compose("train", []), [])
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError))
    monkeypatch.setattr("fastconv.config.resume._read", lambda _: None)
    with closing(job_of_sweep(config, tmp_path / "0")) as first:
        assert not first.resumed
        with pytest.raises(InputError, match="running in another process"):
            job_of_sweep(config, tmp_path / "0")
    assert [name for name in files(tmp_path / "0") if name != ".lock"] == ["config.yaml"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("resume=auto",), "resume=auto is of a single run: for a sweep use sweep.resume"),
        (("augment=glob(*)",), "augment=glob(*) is not possible: name the values, as augment=a,b"),
        (
            ("hydra/sweeper=optuna",),
            "hydra/sweeper=optuna is not possible: leave it out, and search by sweep.trials=20",
        ),
        (
            ("experiment=search", "hydra.sweeper.n_trials=9"),
            "unknown key hydra.sweeper.n_trials: it is sweep.trials now",
        ),
        (("sweep.trials=0",), "sweep.trials=0 is not possible: give a number of trials in [1, 100000]"),
        (("hydra.job.chdir=true",), "hydra.job.chdir=true is not possible in a sweep: paths such as"),
        (
            ("experiment=none,ablation_augment",),
            "experiment=ablation_augment is a sweep by itself, over augment: start it by a command of its own",
        ),
        (("schedule=interval(0,1)",), "only a search draws from an interval; add sweep.trials=20"),
        (("experiment=search", "hydra/launcher=joblib"), "start the command several times with the same sweep.resume"),
        (
            ("experiment=search", "trainer.devices=2", "trainer.accelerator=cpu"),
            "a search trains each trial on one device, not on 2",
        ),
        (("experiment=search", "dry_run=true"), "dry_run=true is not possible in a search"),
        (
            ("experiment=search", "schedule=choice(cosine,one_cycl)"),
            "unknown schedule one_cycl; did you",
        ),
        (("experiment=search", "optimizer.max_lr=interval(-1,1)"), "optimizer.max_lr=-1.0 is not possible"),
    ],
)
def test_what_cannot_be_a_sweep_gets_one_line(command, tmp_path, overrides, says):
    ended = command("train", "-m", "seed=0,1", "model.width=4", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err
    assert files(tmp_path) == []


def test_a_search_of_something_without_a_result_is_refused(command, tmp_path):
    ended = command("lr_find", "experiment=search", "dataset=digits", "figures=false")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "this command has no result to compare" in ended.err
    assert files(tmp_path) == []


def test_a_search_in_which_all_fail_shows_no_traceback(command, monkeypatch):
    def fail(*_):
        raise InputError("out of paper")

    monkeypatch.setattr(runs, "plan_run", fail)
    ended = command(*SEARCH, "sweep.trials=2")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert [line for line in ended.err.splitlines() if line.startswith("fastconv")] == [
        "fastconv: job 0: out of paper",
        "fastconv: job 1: out of paper",
    ]


@pytest.mark.slow
def test_a_job_that_fails_in_another_process_counts(command, tmp_path, capfd):
    tiny = ("range_test.steps=20", "range_test.min_lr=1e-9", "range_test.max_lr=1e-8", *SHORT)
    ended = command("lr_find", "-m", "seed=0,1", *tiny, *JOBLIB)
    assert ended.code == 1
    assert capfd.readouterr().err.count("the loss never falls") == 2, "the processes write to the same terminal"
    assert not list(tmp_path.rglob(".failed-*"))


# -- searches


def test_a_search_finds_by_held_out_images(command, tmp_path):
    ended = command(*SEARCH)
    assert ended.code == 0, ended.err
    (sweep,) = sweeps(tmp_path)
    found = results_of(sweep)
    assert len({json.dumps(each.hparams) for each in found.values()}) == 3
    storage = JournalStorage(JournalFileBackend(str(sweep / "trials.log")))
    told = [trial.value for trial in optuna.load_study(study_name=None, storage=storage).trials]
    assert told == [each.accuracy_holdout for each in found.values()]
    assert told != [each.accuracy for each in found.values()]
    assert f"{100 * max(told):.2f}" in ended.out
    assert "accuracy %" not in ended.out.split("dataset ")[-1], "the table of a search does not show the test images"
    kept = {name: (sweep / name / "results.json").stat().st_mtime_ns for name in found}
    assert command(*SEARCH, f"sweep.resume={sweep}", "sweep.trials=4").code == 0, "a larger number adds to it"
    assert len(results_of(sweep)) == 4
    assert {name: (sweep / name / "results.json").stat().st_mtime_ns for name in found} == kept


def test_a_trial_that_was_stopped_goes_on(command, tmp_path, monkeypatch):
    search = [each for each in SEARCH if each != "checkpoint.save=false"]
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)  # the second one of the second trial
        assert command(*search, "sweep.trials=2").code == 143
    (sweep,) = sweeps(tmp_path)
    steps = [each.steps for each in results_of(sweep).values()]
    assert steps[0] > steps[1] > 0
    assert command(*search, "sweep.trials=2", "sweep.resume=auto").code == 0
    assert sweeps(tmp_path) == [sweep]
    assert [(each.steps, each.resumed) for each in results_of(sweep).values()] == [(steps[0], 0), (steps[0], 1)]


@pytest.mark.parametrize("objective", ["accuracy", "macro_f1"])
def test_a_hopeless_trial_is_pruned_and_never_counts(command, tmp_path, objective):
    """With a learning rate of 1e-7 nothing is learned; the trial with 0.1 is drawn first."""
    search = ("train", "experiment=search", "dataset=digits", "model.width=4", "stream=online", "budget.seconds=null",
              "schedule.max_epochs=2", "schedule=one_cycle", "augment=none", "validate.every=0.2",
              "optimizer.max_lr=choice(0.1,1e-7)", "sweep.trials=2", "sweep.startup_trials=1", "sweep.seed=2",
              f"objective={objective}")  # fmt: skip
    ended = command(*search)
    assert ended.code == 0, ended.err
    (sweep,) = sweeps(tmp_path)
    whole, pruned = results_of(sweep).values()
    assert (whole.stop_reason, pruned.stop_reason) == ("epochs", "pruned")
    assert 0 < pruned.steps < whole.steps
    assert (pruned.accuracy, pruned.accuracy_holdout, pruned.error) == (None, None, None), "no image was scored"
    assert "pruned: its search ended it after" in ended.out
    table = json.loads(command("compare", f"runs={sweep}", "format=json").out)
    assert [(row["n"], row["pruned"]) for row in table] == [(1, None), (0, 1)]
    assert "not finished" not in table[0]
    page = (sweep / "compare.html").read_text()
    assert "1 run has no result: pruned" in page


@pytest.mark.parametrize("overrides", [("validate.on=test",), ("validate.on=none",)])
def test_a_search_by_the_test_images_is_refused(command, tmp_path, overrides):
    ended = command(*SEARCH, *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "must not look at the test images: set dataset.holdout=0.1 and validate.on=holdout" in ended.err
    assert files(tmp_path) == []
    sweep = ("train", "-m", "sweep.trials=2", "optimizer.max_lr=interval(0.1,1)", *SHORT)
    assert "must not look at the test images" in command(*sweep).err


def test_a_search_whose_database_is_absent_leaves_nothing(command, tmp_path):
    """So that the next command may give another URL for the same folder."""
    ended = command(*SEARCH, "sweep.storage=sqlite:////none/x.db", "sweep.resume=mine")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "sweep.storage=sqlite:////none/x.db cannot be used" in ended.err
    assert files(tmp_path) == []


# -- folders


@pytest.mark.parametrize("name", ["plain", "it's {x}, a=b", 'ünï "back\\slash"'])
def test_a_sweep_goes_to_any_folder(command, tmp_path, name):
    sweep = ("train", "-m", "seed=0", *SHORT)
    quoted = override_of(Path(name)).removeprefix("hydra.sweep.dir=")
    assert command(*sweep, f"sweep.resume={quoted}").code == 0
    assert (tmp_path / name / "0" / "results.json").exists()


def test_a_sweep_that_left_no_runs_has_no_table(tmp_path):
    (tmp_path / ".submitit").mkdir()
    assert report(typed_config("train", compose("train", []), []), tmp_path)
    assert files(tmp_path) == [".submitit"]


def test_the_folder_of_something_else_is_no_sweeps(command, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    ended = command("train", "-m", "seed=0,1", *SHORT, "sweep.resume=home")
    assert ended.err == "fastconv: sweep.resume=home is not the folder of a sweep: it has no sweep.yaml\n"
    assert files(tmp_path) == ["home", "home/letter"]


def test_what_a_sweep_was_asked_for_is_written_down(command, tmp_path):
    command("train", "-m", "seed=0,1", *SHORT, "outputs=elsewhere", "hydra.sweeper.max_batch_size=1")
    (description,) = (tmp_path / "elsewhere" / "sweeps").glob("*/sweep.yaml")
    assert yaml.safe_load(description.read_text()) == {
        "command": "train",
        "overrides": ["seed=0,1", *SHORT[:-1], "hydra.sweeper.max_batch_size=1"],
        "jobs": 2,
    }


def test_empty_folders_go_and_others_stay(tmp_path):
    sweep = tmp_path / "outputs" / "sweeps" / "now"
    for job in ("0", "1"):
        (sweep / job).mkdir(parents=True)
    (sweep / "sweep.yaml").touch()
    (sweep / "1" / "results.json").touch()
    assert not remove_empty(sweep)
    assert files(sweep) == ["1", "1/results.json", "sweep.yaml"]
    (sweep / "1" / "results.json").unlink()
    assert remove_empty(sweep)
    assert files(tmp_path) == []


def test_the_slurm_launcher_composes():
    settings = compose("train", ["hydra/launcher=slurm"], with_hydra=True).hydra.launcher
    assert settings._target_.endswith("SlurmLauncher")
    assert (settings.cpus_per_task, settings.gpus_per_node, settings.array_parallelism) == (8, 1, 16)


def test_a_launcher_that_is_not_installed(command):
    ended = command("train", "-m", "seed=0,1", *SHORT, "hydra/launcher=rocket")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "unknown hydra/launcher rocket" in ended.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hydra.launcher.n_job=2", "unknown key hydra.launcher.n_job; did you mean hydra.launcher.n_jobs?"),
        ("hydra/lancher=joblib", "unknown key hydra/lancher; did you mean hydra/launcher?"),
        ("hydra.swep.dir=x", "unknown key hydra.swep; did you mean hydra.sweep?"),
        ("hydra.job.env_set.A=3", "unknown key hydra.job.env_set.A: to add it, write +hydra.job.env_set.A=..."),
        ("hydra.nothing=3", "unknown key hydra.nothing: Hydra has no such setting."),
    ],
)
def test_a_mistyped_key_of_hydra_is_one_line(command, override, says):
    ended = command("train", "-m", "seed=0,1", *SHORT, "hydra/launcher=joblib", override)
    assert (ended.code, ended.err) == (1, f"fastconv: {says}\n")


@pytest.mark.slow
def test_runs_on_two_devices_are_trained_one_after_the_other(tmp_path, digits_root):
    """Each ends as it does alone. In a process of its own, as Lightning starts the other ranks by its command line."""
    two = (*SHORT, "trainer.devices=2", "dataset=digits", "figures=false")

    def train(folder, *overrides):
        folder.mkdir()
        code, err = finish(folder, digits_root, *overrides, *two, script=("-m", "fastconv.train"))
        assert code == 0, err

    train(tmp_path / "sweep", "-m", "seed=0,1")
    (sweep,) = (tmp_path / "sweep" / "outputs" / "sweeps").iterdir()
    for seed in (0, 1):
        train(tmp_path / str(seed), f"seed={seed}")
        both = sweep / str(seed), only_run(tmp_path / str(seed))
        assert len({Results.read(run).weights_digest for run in both}) == 1


def test_joblib_trains_on_one_device_each(command, tmp_path):
    ended = command("train", "-m", "seed=0,1", *SHORT, *JOBLIB, "trainer.devices=2", "trainer.accelerator=cpu")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "trainer.devices=2 is not possible with this hydra/launcher" in ended.err
    assert not list(tmp_path.iterdir())
