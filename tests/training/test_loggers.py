"""Loggers by name: a table always, TensorBoard by default, MLflow and Weights & Biases on request, and one's own."""

import csv
import importlib.util
import json

import pytest
from harness import SHORT, only_run

from fastconv.config.schema import Config
from fastconv.runs.results import Results
from fastconv.training import loggers
from fastconv.training.metrics_table import MetricsTable
from fastconv.training.tensorboard import METRICS

TINY = ("dataset=digits", *SHORT, "stream=online", "checkpoint.save=false")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `mypkg` of a user's own, importable from the working directory."""
    (tmp_path / "mypkg.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n\n"
        "class Mine(CSVLogger):\n"
        "    def __init__(self, folder, name):\n"
        "        super().__init__(folder, name=name, version='')\n\n"
        "class Nothing:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mypkg", raising=False)


def curve(path):
    """Training losses by step."""
    with path.open(newline="") as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def test_the_default_is_a_table_and_tensorboard(command, tmp_path):
    assert command("train", *TINY).code == 0
    run = only_run(tmp_path)
    assert list(run.glob("events.out.tfevents.*"))
    assert curve(run / "metrics.csv")
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


@pytest.mark.parametrize("every", [1, 5, 30])
def test_the_table_of_a_run_that_is_killed_has_most_of_its_rows(tmp_path, monkeypatch, every):
    """However many steps lie between two rows; and it is written few times, each time as a whole."""
    table, written, write = MetricsTable(tmp_path), [], MetricsTable.write

    def counted(self):
        write(self)
        written.append(len(curve(tmp_path / "metrics.csv")))

    monkeypatch.setattr(MetricsTable, "write", counted)
    for row in range(1, 1001):
        table.log_metrics({"train/loss": 1 / row}, step=every * row)
        if row in (50, 200, 1000):
            assert len(curve(tmp_path / "metrics.csv")) >= 0.75 * row
    assert sum(written) < 6 * 1000


def test_mlflow_keeps_curves_settings_and_results_in_a_file(command, tmp_path):
    import mlflow

    ended = command("train", *TINY, "logger=[csv,mlflow]", "seed=3")
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    assert not list(run.glob("events.out.tfevents.*"))
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (found,) = store.search_runs([store.get_experiment_by_name("fastconv").experiment_id])
    assert found.info.run_name == run.name
    assert found.data.params["seed"] == "3"
    results = Results.read(run)
    for key in METRICS:
        if getattr(results, key) is not None:
            assert found.data.metrics[f"results/{key}"] == pytest.approx(getattr(results, key))
    logged = {each.step: each.value for each in store.get_metric_history(found.info.run_id, "train/loss")}
    assert logged == pytest.approx(curve(run / "metrics.csv"))
    hparams = json.loads((run / "results.json").read_text())["hparams"]
    assert not [key for key in hparams if key.startswith("logger")], "a logger does not change what a run computes"


def test_wandb_writes_to_the_folder_without_a_network(command, tmp_path):
    ended = command("train", *TINY, "logger=wandb")
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert curve(run / "metrics.csv"), "the table is always written"
    assert not (tmp_path / "wandb").exists()


@pytest.fixture
def no_network(monkeypatch):
    """Lets a function of wandb fail as without a network, which logger.wandb.offline=false needs."""
    import wandb

    def fail(*_, **__):
        raise wandb.errors.CommError("no network")

    return lambda owner, name: monkeypatch.setattr(owner, name, fail)


def test_wandb_that_cannot_begin_is_one_line(command, tmp_path, no_network):
    import wandb

    no_network(wandb, "init")
    ended = command("train", *TINY, "logger=wandb")
    assert (ended.code, ended.err) == (1, "fastconv: logger.wandb cannot be made: CommError: no network\n")
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_run_is_whole_if_wandb_fails_at_its_end(command, tmp_path, no_network):
    import wandb

    no_network(wandb.Run, "finish")
    with pytest.warns(UserWarning, match=r"left out: the rest of logger.wandb .CommError: no network.") as heard:
        ended = command("train", *TINY, "logger=wandb", "figures=false")
    assert ended.code == 0, ended.err
    assert sum("wandb" in str(each.message) for each in heard) == 1
    assert Results.read(only_run(tmp_path)).stop_reason == "epochs"


def test_mlflow_forgets_an_earlier_run_of_a_folder_with_an_apostrophe(tmp_path):
    import mlflow

    folder, config = tmp_path / "o'neil", Config(outputs=str(tmp_path))
    first, second = (loggers.mlflow(config, folder, "mine").run_id for _ in range(2))
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [store.get_run(each).info.lifecycle_stage for each in (first, second)] == ["deleted", "active"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_before_anything_starts(command, tmp_path, monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda each, *more: None if each == name else find(each, *more))
    ended = command("train", *TINY, f"logger={name}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"logger={name} needs {name}: pip install 'fastconv[loggers]'" in ended.err
    assert not (tmp_path / "outputs").exists()


def test_a_logger_of_ones_own_gets_curves_and_results(command, tmp_path, module):
    ended = command("train", *TINY, "+logger.mine={_target_: mypkg.Mine, folder: logs, name: mine}")
    assert ended.code == 0, ended.err
    assert curve(tmp_path / "logs" / "mine" / "metrics.csv") == curve(only_run(tmp_path / "outputs") / "metrics.csv")
    assert "results/accuracy" in (tmp_path / "logs" / "mine" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("logger=mflow", "did you mean mlflow"),
        ("+logger.mine=true", "logger.mine is unknown"),
        ("+logger.mine={_target_: mypkg.Nothing}", "is not a Lightning logger"),
        ("+logger.mine={_target_: mypkg.Mine}", "logger.mine: Mine missing a required argument: 'folder'"),
        ("+logger.mine={_target_: mypkg.Other}", "logger.mine._target_=mypkg.Other"),
    ],
)
def test_what_is_no_logger_gets_one_line(command, module, override, line):
    ended = command("train", *TINY, override)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert line in ended.err
