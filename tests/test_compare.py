"""The table of runs."""

import csv
import io
import json
import os

import pytest

from fastconv.results import Results


@pytest.fixture
def runs(tmp_path):
    """A folder with a good run, a failed one, an unfinished one and one with a broken file."""
    for age, name in enumerate(("good", "failed", "unfinished", "broken")):
        run = tmp_path / "outputs" / "digits" / name
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (1e9 + age, 1e9 + age))
    folder = tmp_path / "outputs" / "digits"
    good = Results(
        "digits", "davidnet", "original", 7, 7, 0.98765, epochs=3.5, seconds_counted=59.96, stopped_by="budget"
    )
    good.write(folder / "good")
    content = json.loads((folder / "good" / "results.json").read_text())
    (folder / "good" / "results.json").write_text(json.dumps({**content, "key_of_a_later_version": 1}))
    Results("digits", "davidnet", None, 1, 1, stopped_by="error", error="RuntimeError: a | b [batch, 3] [/x]").write(
        folder / "failed"
    )
    (folder / "broken" / "results.json").write_text("[]")
    (tmp_path / "outputs" / "conf" / "experiment").mkdir(parents=True)  # as in a checkout: not a run
    (tmp_path / "outputs" / "conf" / "config.yaml").touch()
    return tmp_path


def test_csv_has_a_row_for_every_run(runs, command):
    rows = list(csv.DictReader(io.StringIO(command("compare", "format=csv").out)))
    assert [row["run"].split("/")[-1] for row in rows] == ["good", "failed", "unfinished", "broken"]
    assert (rows[0]["accuracy %"], rows[0]["epochs"], rows[0]["seconds"]) == ("98.77", "3.50", "60.0")
    assert rows[0]["problem"] == ""
    assert rows[1]["problem"] == "RuntimeError: a | b [batch, 3] [/x]"
    assert rows[2]["problem"] == "unfinished: no results.json"
    assert rows[3]["problem"] == "results.json cannot be read: not an object"
    assert [row["accuracy %"] for row in rows[1:]] == ["", "", ""]


def test_markdown(runs, command):
    lines = command("compare", "format=markdown").out.splitlines()
    assert lines[0].startswith("| run | dataset | model | experiment | seed | accuracy % |")
    assert set(lines[1]) <= set("|- ")
    assert r"a \| b" in lines[3]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_table_loses_nothing(runs, command):
    out = command("compare", "runs=[outputs/digits/good,outputs/digits/failed]").out
    assert "98.77" in out
    assert "RuntimeError: a | b [batch, 3] [/x]" in out
    assert "outputs/digits/good" in out


@pytest.mark.parametrize(
    ("key", "value"), [("accuracy", "0.9"), ("dataset", 5), ("seed", None), ("seconds", []), ("budget_counts", "train")]
)
def test_a_value_of_another_type_is_a_problem_of_that_run(runs, command, key, value):
    path = runs / "outputs" / "digits" / "good" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    rows = list(csv.DictReader(io.StringIO(command("compare", "format=csv").out)))
    assert rows[0]["problem"] == f"results.json cannot be read: {key} is {value!r}"
    assert len(rows) == 4


def test_bad_input(runs, command):
    assert command("compare", "runs=0").err.startswith("fastconv: runs=0 is not a folder")
    ended = command("compare", "runs=nowhere")
    assert (ended.code, ended.err) == (
        1,
        "fastconv: runs=nowhere is not a folder: give the folder that holds the runs, such as runs=outputs\n",
    )
    (runs / "empty").mkdir()
    assert "no runs below empty: train one with" in command("compare", "runs=empty").err
    assert "did you mean markdown?" in command("compare", "format=markdwn").err
    assert "unknown key formt; did you mean format?" in command("compare", "formt=csv").err
