"""`name=` and `tags=`: what a run is called, which its files keep and `compare` shows and finds it by."""

import csv
import io
import json

import pytest
from harness import SHORT, files, only_run
from omegaconf import OmegaConf

from fastconv.runs.collection import find_runs, select
from fastconv.runs.results import Results


def test_a_run_keeps_its_name_and_its_tags(command, tmp_path):
    ended = command("train", *SHORT, "stream=online", "name=2024_01, first try", "tags=[wide,10]")
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    content = json.loads((run / "results.json").read_text())
    assert (content["name"], content["tags"]) == ("2024_01, first try", ["wide", "10"])
    config = OmegaConf.load(run / "config.yaml")
    assert (config.name, config.tags) == (content["name"], content["tags"])
    assert {"name", "tags"} & set(content["hparams"]) == set(), "they decide nothing"
    (row,) = csv.DictReader(io.StringIO(command("compare", "by=runs", "where=tags:wide", "format=csv").out))
    assert (row["name"], row["tags"]) == ("2024_01, first try", "wide, 10")


def write_run(folder, name, tags, **more):
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    Results("digits", "davidnet", None, 0, 0, stop_reason="epochs", name=name, tags=tags, **more).write(folder)


def test_runs_are_found_by_them(tmp_path, command):
    write_run(tmp_path / "outputs/a", "one", ["x", "y"], accuracy=0.5)
    write_run(tmp_path / "outputs/b", "it's two", ["y"], accuracy=0.6, overrides=["name='it\\'s two'"])
    write_run(tmp_path / "outputs/c", None, [], accuracy=0.7)
    entries = find_runs([tmp_path / "outputs"])

    def found(*conditions):
        return [entry.folder.name for entry in select(entries, list(conditions))]

    assert sorted(found("tags:y")) == ["a", "b"]
    assert sorted(found("tags:x", "name:one")) == ["a"]
    assert found("name:it's two") == ["b"]
    assert command("compare", "where=tags:z").err == "fastconv: no run has tags:z: 3 runs were looked at\n"


@pytest.mark.parametrize("override", ["name=''", "tags=[a,' ']", f"name={'a' * 101}", "name=a\x1b[31mb"])
def test_a_name_can_be_seen(command, tmp_path, override):
    ended = command("train", override)
    assert (ended.code, ended.out.count("\n"), ended.err.count("\n")) == (1, 1, 1)
    assert f"{override.partition('=')[0]}=" in ended.err
    assert "is not possible: give 1 to 100 printable characters" in ended.err
    assert files(tmp_path) == []
