"""`run=latest`: the newest finished run below the folder of the runs, and what a command says of it."""

import dataclasses
import os
import shutil

import pytest

from fastconv.runs.results import Results


@pytest.fixture
def runs(tmp_path, davidnet_run):
    """Three finished runs, the newest of which is neither the first nor the last by its name, and two that are not."""
    for age, name in enumerate(("digits/b", "sweeps/s/1", "digits/c")):
        shutil.copytree(davidnet_run, tmp_path / "outputs" / name)
        os.utime(tmp_path / "outputs" / name / "results.json", (1e9 - age, 1e9 - age))
    for name, reason in (("digits/failed", "error"), ("digits/running", None)):
        folder = tmp_path / "outputs" / name
        shutil.copytree(davidnet_run, folder)
        dataclasses.replace(Results.read(folder), stop_reason=reason).write(folder)
    return tmp_path / "outputs"


def test_export_takes_the_newest_finished_run(command, runs):
    ended = command("export", "run=latest", "format=torch", "samples=2")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == "fastconv: reading outputs/digits/b, which latest stands for"
    assert [path.parent.name for path in runs.rglob("model.pt2")] == ["b"]


def test_evaluate_takes_the_one_that_finished_last(command, runs):
    os.utime(runs / "sweeps/s/1/results.json", (2e9, 2e9))
    ended = command("evaluate", "run=latest")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("fastconv: reading outputs/sweeps/s/1, which latest stands for\nAccuracy ")
    assert (runs / "sweeps/s/1/report.html").exists()


def test_predict_leaves_standard_output_to_the_data(command, runs):
    ended = command("predict", "run=latest", "outputs=outputs/digits", f"images={runs}/digits/b/curves.png", "out=-")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("{")
    assert ended.err.startswith("fastconv: reading outputs/digits/b, which latest stands for\n")


@pytest.mark.parametrize("name", ["evaluate", "explain", "export", "predict"])
def test_no_finished_run_gets_one_line(command, tmp_path, name):
    (tmp_path / "a.png").touch()
    ended = command(name, "run=latest", *(["images=a.png"] if name == "predict" else []))
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith("fastconv: no finished run below outputs: train one with fastconv train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_a_folder_of_that_name_is_not_mistaken(command, runs, tmp_path):
    (tmp_path / "latest").symlink_to(runs / "digits/c")
    ended = command("evaluate", "run=latest")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "write run=./latest for it" in ended.err
    ended = command("explain", "run=[./latest,latest]", "measures=false")
    assert "could be the folder latest that is here" in ended.err
    ended = command("export", "run=./latest", "format=torch", "samples=2")
    assert ended.out.startswith("fastconv: reading ./latest\n")
    assert (runs / "digits/c/model.pt2").exists()
