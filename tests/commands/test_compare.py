"""The tables and the page of many runs."""

import csv
import io
import json
import os
import re

import pytest

from fastconv.runs.results import Results


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
        "digits", "davidnet", "original", 7, 7, 0.98765, epochs=3.5, seconds_counted=59.96, stop_reason="budget"
    )
    good.write(folder / "good")
    content = json.loads((folder / "good" / "results.json").read_text())
    (folder / "good" / "results.json").write_text(json.dumps({**content, "key_of_a_later_version": 1}))
    Results("digits", "davidnet", None, 1, 1, stop_reason="error", error="RuntimeError: a | b [batch, 3] [/x]").write(
        folder / "failed"
    )
    (folder / "broken" / "results.json").write_text("[]")
    (tmp_path / "outputs" / "conf" / "experiment").mkdir(parents=True)  # as in a checkout: not a run
    (tmp_path / "outputs" / "conf" / "config.yaml").touch()
    return tmp_path


def test_csv_has_a_row_for_every_run(runs, command):
    rows = list(csv.DictReader(io.StringIO(command("compare", "by=runs", "format=csv").out)))
    assert [row["run"].split("/")[-1] for row in rows] == ["good", "failed", "unfinished", "broken"]
    assert (rows[0]["accuracy"], rows[0]["epochs"], rows[0]["seconds_counted"]) == ("0.98765", "3.5", "59.96")
    assert rows[0]["problem"] == ""
    assert rows[1]["problem"] == "RuntimeError: a | b [batch, 3] [/x]"
    assert rows[2]["problem"] == "unfinished: no results.json"
    assert rows[3]["problem"] == "results.json cannot be read: not an object"
    assert [row["accuracy"] for row in rows[1:]] == ["", "", ""]


def test_markdown(runs, command):
    lines = command("compare", "by=runs", "format=markdown").out.splitlines()
    assert lines[0].startswith("| run | dataset | model | experiment | seed | accuracy % |")
    assert set(lines[1]) <= set("|- ")
    assert r"a \| b" in lines[3]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_table_loses_nothing(runs, command):
    out = command("compare", "by=runs", "runs=[outputs/digits/good,outputs/digits/failed]").out
    assert "98.77" in out
    assert "RuntimeError: a | b [batch, 3] [/x]" in out
    assert "outputs/digits/good" in out


@pytest.mark.parametrize(
    ("key", "value"), [("accuracy", "0.9"), ("dataset", 5), ("seed", None), ("seconds", []), ("budget_counts", "train")]
)
def test_a_value_of_another_type_is_a_problem_of_that_run(runs, command, key, value):
    path = runs / "outputs" / "digits" / "good" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    rows = list(csv.DictReader(io.StringIO(command("compare", "by=runs", "format=csv").out)))
    assert rows[0]["problem"] == f"results.json cannot be read: {key} is {value!r}"
    assert len(rows) == 4


def test_groups_come_with_the_reasons_of_the_others(runs, command):
    out = command("compare").out
    assert "98.77" in out
    for reason in (
        "RuntimeError: a | b [batch, 3] [/x]",
        "unfinished: no results.json",
        "cannot be read: not an object",
    ):
        assert reason in out


def test_json_has_every_digit(runs, command):
    (row,) = json.loads(command("compare", "format=json", "where=seed:7").out)
    assert (row["accuracy"], row["n"]) == (0.98765, 1)
    assert not {"sd", "verdict"} & set(row), "of a single run"


@pytest.fixture
def swept(tmp_path):
    """A folder with three seeds of two schedules, one of them failed."""
    for schedule, level in (("one_cycle", 0.9), ("constant", 0.8)):
        for seed in range(3):
            run = tmp_path / "outputs" / f"{schedule}-{seed}"
            run.mkdir(parents=True)
            (run / "config.yaml").touch()
            curve = "train/epoch,budget/seconds_counted,validate/accuracy\n1,5,\n1,,0.5\n2,10,\n2,,0.75\n"
            (run / "metrics.csv").write_text(curve)
            failed = (schedule, seed) == ("constant", 2)
            Results(
                "digits", "davidnet", None, seed, seed, None if failed else level + seed / 100, device="cpu",
                seconds_counted=10.0 + seed, stop_reason="error" if failed else "budget",
                error="out of <paper> & ink" if failed else None, overrides=[f"schedule={schedule}", f"seed={seed}"],
                hparams={"dataset.name": "digits", "schedule.name": schedule, "seed": seed},
            ).write(run)  # fmt: skip
    return tmp_path


def test_the_page_states_its_findings_and_sorts_by_itself(swept, command):
    ended = command("compare", "page=pages/compare.html")
    assert ended.code == 0, ended.err
    page = (swept / "pages" / "compare.html").read_text()
    assert "digits: schedule=one_cycle: accuracy 91.00 ± 1.00 % (n = 3), the highest. 2 settings are untested" in page
    assert "1 run failed or is not finished" in page
    assert "out of &lt;paper&gt; &amp; ink" in page
    assert page.count('<table class="sortable">') == 2
    assert "addEventListener" in page
    assert re.findall(r'<img class="drawn [a-z]+" src="data:image/webp;base64,[^"]+" alt="(.*?)">', page) == [
        "Accuracy against seconds, with the Pareto front",
        "Validation accuracy of each run over time",
        "Accuracy for each value of each setting",
    ]
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs nothing else"
    assert [path.name for path in (swept / "pages").iterdir()] == ["compare.html"]


def test_the_verdict_is_the_second_column(swept, command):
    """Where a narrow screen shows it too."""
    header = command("compare", "format=csv").out.splitlines()[0].split(",")
    assert header[:2] == ["dataset", "verdict"]
    assert command("compare", "format=markdown").out.startswith("| dataset | verdict |")
    assert [*json.loads(command("compare", "format=json").out)[0]][1] == "verdict"
    assert command("compare", "page=compare.html").code == 0
    headers = re.findall(r'<th scope="col".*?>(.*?)</th>', (swept / "compare.html").read_text())
    assert headers[:2] == ["schedule", "verdict"]
    assert "scroll it sideways" in (swept / "compare.html").read_text()


def test_a_page_says_why_it_has_no_effects(swept, command):
    """Two settings, of which not every combination was run."""
    for run in (swept / "outputs").iterdir():
        found = json.loads((run / "results.json").read_text())
        width = 8 if found["hparams"]["schedule.name"] == "constant" else 16
        found["hparams"]["model.width"], found["overrides"] = width, [*found["overrides"], f"model.width={width}"]
        (run / "results.json").write_text(json.dumps(found))
    assert command("compare", "page=compare.html").code == 0
    page = (swept / "compare.html").read_text()
    assert "Effects of single settings are not shown" in page
    assert "Accuracy for each value of each setting" not in page


def test_the_page_of_runs_that_all_failed(swept, command):
    ended = command("compare", "where=stop_reason:error", "page=compare.html")
    assert ended.code == 0, ended.err
    assert "No run is finished." in (swept / "compare.html").read_text()


def test_rows_are_chosen_and_sorted(swept, command):
    table = list(csv.DictReader(io.StringIO(command("compare", "by=runs", "format=csv", "sort=-seed").out)))
    assert [row["seed"] for row in table] == ["2", "2", "1", "1", "0", "0"]
    table = list(csv.DictReader(io.StringIO(command("compare", "format=csv", "where=[seed:0,seed:1]").out)))
    assert [(row["schedule"], row["n"]) for row in table] == [("one_cycle", "2"), ("constant", "2")]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("by=groups", "by=groups is unknown; did you mean runs? Choose from: settings, runs"),
        (
            "measure=los",
            "measure=los is unknown. Choose from: accuracy, accuracy_tta, accuracy_holdout, accura",
        ),
        ("where=mnist", "where=mnist is not possible: write key:value, such as where=dataset:mnist"),
        ("where=[{a:b}]", "where={a:b}: no run has a {a"),
        ("where=sedule:x", "no run has a sedule"),
        ("where=schedule:cosine", "no run has schedule:cosine: 6 runs were looked at"),
        ("measure=accuracy_tta", "measure=accuracy_tta is not possible: no finished run has this result"),
        ("sort=acuracy", "there is no column acuracy; did you mean accuracy?"),
        ("page=compare.pdf", "give the name of a file that ends in .html"),
        ("page=/proc/nowhere/compare.html", "cannot write /proc/nowhere"),
        ("runs=[]", "runs=[] is not possible: give a folder"),
        ("runs=null", "give a folder"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(swept, command, override, says):
    before = sorted(swept.rglob("*"))
    ended = command("compare", override)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err
    assert sorted(swept.rglob("*")) == before


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


def test_latest_stands_for_the_newest_run_and_its_sweep(swept, command):
    sweep = swept / "outputs" / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "sweep.yaml").touch()
    for name in ("one_cycle-0", "one_cycle-1"):
        (swept / "outputs" / name).rename(sweep / name)
    os.utime(sweep / "one_cycle-0" / "results.json", (2e9, 2e9))
    ended = command("compare", "runs=latest", "by=runs", "format=csv")
    assert ended.code == 0, ended.err
    assert ended.err == "fastconv: reading outputs/sweeps/s, which latest stands for\n"
    assert [row["seed"] for row in csv.DictReader(io.StringIO(ended.out))] == ["0", "1"]
    os.utime(swept / "outputs" / "constant-1" / "results.json", (3e9, 3e9))
    ended = command("compare", "runs=latest", "format=csv")
    assert ended.err == "fastconv: reading outputs/constant-1, which latest stands for\n"
    ended = command("compare", "runs=latest", "outputs=outputs/sweeps", "format=csv")
    assert ended.err == "fastconv: reading outputs/sweeps/s, which latest stands for\n"
    (swept / "latest").mkdir()
    ended = command("compare", "runs=latest")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "write runs=./latest for it" in ended.err
    (swept / "empty").mkdir()
    (swept / "latest").rmdir()
    assert command("compare", "runs=latest", "outputs=empty").err.startswith("fastconv: no finished run below empty: ")
