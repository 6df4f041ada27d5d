"""Run folders of somebody else in a comparison: each bad one is a row that says what is wrong, the others stand."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
import yaml

from fastconv.runs.results import Results

HEALTHY = {
    "dataset": "digits", "model": "davidnet", "experiment": None, "seed": 0, "stream_seed": 0, "accuracy": 0.5,
    "loss": 1.0, "epochs": 2.0, "steps": 40, "seconds_counted": 3.0, "seconds": {"train": 3.0}, "stop_reason": "epochs",
    "device": "cpu", "overrides": ["model.width=8"], "hparams": {"dataset.name": "digits", "model.width": 8, "seed": 0},
}  # fmt: skip


def text(content: str):
    def make(path: Path) -> None:
        path.write_text(content)

    return make


def changed(**values):
    return text(json.dumps({**HEALTHY, **values}))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


# What stands in the place of results.json, and what its row says.
HOSTILE = {
    "deep": (text("[" * 100_000), "levels"),
    "deep settings": (changed(hparams={"a": json.loads("[" * 60 + "]" * 60)}), "levels"),
    "long number": (text(f'{{"steps": {"9" * 10_000}}}'), "digits"),
    "huge number": (changed(steps=2**200), "a number of 201 bits"),
    "infinite": (text(json.dumps({**HEALTHY, "epochs": 0}).replace('"epochs": 0', '"epochs": 1e999')), "epochs is inf"),
    "more than all": (changed(accuracy=3.0), "accuracy is 3.0"),
    "negative": (changed(seconds_counted=-1), "seconds_counted is -1"),
    "a truth": (changed(accuracy=True), "accuracy is True"),
    "a text": (changed(accuracy="0.9"), "accuracy is '0.9'"),
    "seconds of text": (changed(seconds={"train": "<script>"}), "seconds has '<script>'"),
    "overrides of numbers": (changed(overrides=[1]), "overrides has 1"),
    "many overrides": (changed(overrides=[f"a{at}=1" for at in range(5000)]), "overrides has 5,000 entries"),
    "long text": (changed(device="x" * 50_000), "device has a text of 50,000 characters"),
    "a list": (text("[1]"), "not an object"),
    "nothing": (text(""), "Expecting value"),
    "no dataset": (text("{}"), "required positional argument"),
    "not text": (lambda path: path.write_bytes(b'{"dataset": "\xff"}'), "not text"),
    "pipe": (os.mkfifo, "a named pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "folder": (Path.mkdir, "a folder"),
    "link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "without end": (huge, "more than 4 MiB"),
}  # fmt: skip
# Odd, but a result: it is shown, with what a terminal would obey as its escape.
ODD = {
    "not a number": changed(loss=float("nan"), accuracy_tta=float("nan")),
    "of a later version": changed(accuracy_of_tomorrow={"deep": [1]}, seconds={"train": 1.0, "tomorrow": 2.0}),
    "surrogates": text(json.dumps({**HEALTHY, "device": "\ud800"})),
    "escapes": changed(dataset="\x1b]0;owned\x07\x1b[2J", model="=cmd|' /C calc'!A0", device="a\nb"),
    "mathematics": changed(overrides=["model.name=$\\frac{1}$"], hparams={"model.name": "$\\frac{1}$", "loss": "x"}),
    "settings of lists": changed(hparams={"optimizer.max_lr": [1, 2], "model.name": ["x"], "dataset": [[]]}),
    "settings of objects": changed(hparams={"model.name": {"x": 1}, "dataset.name": {"y": [{}]}, "schedule": {}}),
    "names of columns": changed(overrides=["accuracy_=x", "sd=x", "epochs=x"], hparams={"loss": "<b>", "low": []}),
}  # fmt: skip


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    for name, make in {**{name: make for name, (make, _) in HOSTILE.items()}, **ODD, "healthy": changed()}.items():
        run = folder / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"dataset": {"name": "digits"}, "model": {"name": "davidnet"}}))
        make(run / "results.json")
    return folder


def test_each_bad_run_is_a_row_and_the_others_stand(outputs, command):
    ended = command("compare", "by=runs", "format=json")
    assert ended.code == 0, ended.err
    rows = {Path(row["run"]).name: row for row in json.loads(ended.out)}
    assert rows.keys() == {*HOSTILE, *ODD, "healthy"}
    for name, (_, reason) in HOSTILE.items():
        assert reason in rows[name]["problem"], name
    for name in (*ODD, "healthy"):
        assert (rows[name]["problem"], rows[name]["accuracy"]) == (None, 0.5), name
    assert rows["not a number"].get("accuracy_tta") is None
    assert rows["escapes"]["dataset"] == "\\x1b]0;owned\\x07\\x1b[2J"


@pytest.mark.parametrize("form", ["table", "csv"])
def test_no_table_has_escapes_or_formulas(outputs, command, form):
    ended = command("compare", "by=runs", f"format={form}")
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out
    assert "\\x1b" in ended.out
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(ended.out)) for cell in row]
        assert "'=cmd|' /C calc'!A0" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))]


# What stands in the place of config.yaml or metrics.csv beside results that are missing, or fine.
CONFIGS = {
    "deep": text("- " * 50_000),
    "aliases": text("a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
    "pipe": os.mkfifo,
    "broken link": lambda path: path.symlink_to("nowhere"),
    "code": text("a: !!python/object/apply:os.system ['touch harm']"),
    "keys": text("1: {2: 3}\n"),
}
METRICS = {
    "pipe": os.mkfifo,
    "ragged": text("train/epoch,validate/accuracy,budget/seconds_counted\n1\n2,0.5,1,9\n"),
    "huge": text("train/epoch,validate/accuracy,budget/seconds_counted\n1,1e308,1\n2,-1e308,inf\n"),
    "text": text("train/epoch,validate/accuracy,budget/seconds_counted\n1,<b>,1\n"),
    "field": text(f'train/epoch\n"{"x" * 200_000}"\n'),
    "zero bytes": lambda path: path.write_bytes(bytes(1000)),
    "columns": text("validate/accuracy\n1\n"),
    "empty": text(""),
    "folder": Path.mkdir,
}


def test_other_bad_files_spoil_no_page(tmp_path, command):
    for place, make in enumerate(CONFIGS.values()):
        (tmp_path / "outputs" / f"config-{place}").mkdir(parents=True)
        make(tmp_path / "outputs" / f"config-{place}" / "config.yaml")
    for place, make in enumerate(METRICS.values()):
        run = tmp_path / "outputs" / f"metrics-{place}"
        run.mkdir()
        (run / "config.yaml").touch()
        values = {**HEALTHY, "hparams": {**HEALTHY["hparams"], "model.width": place, "a" * 300: f"${place}$"}}
        (run / "results.json").write_text(json.dumps(values))
        make(run / "metrics.csv")
    ended = command("compare", "page=compare.html")
    assert ended.code == 0, ended.err
    assert (tmp_path / "compare.html").read_text().count("unfinished: no results.json") == len(CONFIGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.html", "outputs"]


def test_settings_of_any_type_spoil_no_page(tmp_path, command):
    for at, model in enumerate(("davidnet", ["x"], {"x": 1}, {"x": [{}]}, [[1]], 2**63)):
        run = tmp_path / "outputs" / str(at)
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        hparams = {"dataset.name": "digits", "model.name": model, "optimizer.max_lr": {"a": [1]}, "seed": [at]}
        changed(hparams=hparams)(run / "results.json")
    ended = command("compare", "page=compare.html", "format=csv")
    assert ended.code == 0, ended.err
    assert "davidnet" in ended.out
    assert (tmp_path / "compare.html").exists()


def test_unreadable_and_looping_folders_are_passed(tmp_path, command):
    run = tmp_path / "outputs" / "healthy"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    changed()(run / "results.json")
    (tmp_path / "outputs" / "loop").symlink_to(tmp_path / "outputs")
    ended = command("compare", "by=runs", "format=json")
    assert [Path(row["run"]).name for row in json.loads(ended.out)] == ["healthy"]


def test_a_run_reads_its_own_results_unchanged(tmp_path):
    own = Results("digits", "davidnet", None, 0, 2**63 - 1, 0.5, loss=0.25, overrides=["a=[1,2]"],
                  versions={"torch": "2"}, hparams={"a": [{"b": 1e-3}, None, True], "c": "Größe 猫"})  # fmt: skip
    own.write(tmp_path)
    assert Results.read(tmp_path) == own
