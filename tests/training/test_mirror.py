"""Runs in an object store: copied there after each checkpoint, and fetched from there on another machine."""

import shutil
from pathlib import Path

import fsspec
import pytest
from harness import RUN, only_run, run_command, same_weights, stop_at

from fastconv.data.url_place import Place
from fastconv.runs.results import Results
from fastconv.training.mirror import Mirror

STORE = "memory://store/runs"

pytestmark = pytest.mark.usefixtures("patient_downloads")


@pytest.fixture
def store():
    """The files of the store, by path."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda: sorted(system.store)
    system.store.clear()


@pytest.fixture
def machine(tmp_path, digits_root):
    """Makes a folder for a machine of its own, and returns a function that runs a command there."""

    def make(name):
        folder = tmp_path / name
        shutil.copytree(digits_root / "arrays", folder / "data" / "arrays")
        return lambda *given: run_command(folder, folder / "data", *given)

    return make


def test_a_run_goes_on_on_another_machine(tmp_path, machine, store, monkeypatch):
    """As if it had not been stopped; what is copied last says that all is there."""
    first, second = machine("first"), machine("second")
    undisturbed = first("train", *RUN, "outputs=disk")
    assert undisturbed.code == 0, undisturbed.err
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 9)
        stopped = first("train", *RUN, f"outputs={STORE}")
    assert stopped.code == 143, stopped.err
    assert not (tmp_path / "first" / "memory:").exists()
    (config,) = (path for path in store() if path.endswith("config.yaml"))
    url = f"memory:/{Path(config).parent}"
    assert f"go on with: python -m fastconv.train resume={url}" in stopped.err

    (local,) = (tmp_path / "first" / "data" / "runs").glob("*/digits/*")
    asked = first("train", f"resume={local}")
    assert (asked.code, asked.err.count("\n")) == (1, 1)
    assert "names outputs=memory://store/..., and may be somebody else's: add outputs=" in asked.err

    sent, put = [], Place.put
    monkeypatch.setattr(Place, "put", lambda place, path: (sent.append(path.name), put(place, path)))
    ended = second("train", f"resume={url}", "data=data")
    assert ended.code == 0, ended.err
    assert f"copied to {url}" in ended.out
    assert sent[-1] == "results.json"
    run = only_run(next((tmp_path / "second" / "data" / "runs").iterdir()))
    assert same_weights(run, only_run(tmp_path / "first" / "disk"))
    assert Results.read(run).stop_reason == "epochs"
    fsspec.filesystem("memory").get(Path(config).parent.as_posix() + "/", str(tmp_path / "copy"), recursive=True)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.name[0] != "."}
    assert {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")} >= names
    other = [name for name in names if (run / name).read_bytes() != (tmp_path / "copy" / name).read_bytes()]
    assert other == ["log.txt"], "which goes on with the lines about the copy"

    scored = first("evaluate", f"run={url}", "data=data")
    assert scored.code == 0, scored.err
    assert (tmp_path / "first" / "outputs" / "digits" / run.name / "report.html").exists()
    again = first("train", f"resume={url}", "data=data")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "is finished: there is nothing to go on with" in again.err


def test_results_are_sent_last_and_only_what_has_changed_is_sent_again(tmp_path, store, monkeypatch):
    names = ["results.json", "a.txt", "last.ckpt", "z/z.png", "config.yaml", ".lock", "last.ckpt.01.part"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sent, put = [], Place.put
    monkeypatch.setattr(Place, "put", lambda place, path: (sent.append(path.name), put(place, path)))
    mirror = Mirror(tmp_path, f"{STORE}/digits/a")
    mirror.send()
    assert sent == ["a.txt", "z.png", "config.yaml", "last.ckpt", "results.json"]
    assert store() == [f"/store/runs/digits/a/{name}" for name in sorted(names[:5])]
    (tmp_path / "results.json").write_text("more")
    mirror.send()
    assert sent[5:] == ["results.json"]


def test_a_store_that_fails_is_told_of_and_the_run_stays(tmp_path, machine, store, monkeypatch):
    def failing(place, path):
        raise OSError("503 slow down")

    monkeypatch.setattr(Place, "put", failing)
    ended = machine("first")("train", *RUN, f"outputs={STORE}")
    assert ended.code == 1
    assert "503 slow down. Check outputs, its bucket" in ended.err.splitlines()[-1]
    assert "The run is whole in" in ended.err.splitlines()[-1]
    assert store() == []
    run = only_run(next((tmp_path / "first" / "data" / "runs").iterdir()))
    assert Results.read(run).stop_reason == "epochs"


def test_a_password_is_in_no_file(tmp_path, machine, store):
    ended = machine("first")("train", *RUN, "outputs=memory://ann:pa55word@store/runs")
    assert ended.code == 0, ended.err
    assert "copied to memory://***@store/runs/digits/" in ended.out
    assert "pa55word" not in ended.out + ended.err
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in paths if b"pa55word" in path.read_bytes() or "pa55word" in str(path)]
    files = fsspec.filesystem("memory").store.values()
    assert not [file for file in files if b"pa55word" in file.getvalue()]


def test_a_folder_that_is_no_run_is_not_replaced(tmp_path, machine, store):
    run = tmp_path / "first" / "outputs" / "digits" / "a"
    first = machine("first")
    run.mkdir(parents=True)
    (run / "mine.txt").write_text("mine")
    fsspec.filesystem("memory").pipe("/store/runs/digits/a/config.yaml", b"a: 1")
    ended = first("evaluate", f"run={STORE}/digits/a")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "is not the folder of a run: move it away" in ended.err
    assert [path.name for path in run.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("train", ["outputs=http://host/runs"], "a web server is only read from"),
        ("train", ["outputs=s3:/bucket/runs"], "outputs=s3:/bucket/runs is not possible: give a file or folder"),
        ("train", ["outputs=simplecache::s3://bucket"], "is not possible: give a file or folder"),
        ("train", ["-m", "seed=1,2", f"outputs={STORE}"], "hydra.sweep.dir=memory://store/runs/sweeps/"),
        ("lr_find", [f"outputs={STORE}"], f"outputs={STORE} is not possible: give a file or folder"),
        ("audit", [f"outputs={STORE}"], f"outputs={STORE} is not possible: give a file or folder"),
        ("train", ["resume=memory://run"], "resume=memory://run is not the folder of a run"),
        ("train", [f"resume={STORE}/digits/none"], f"{STORE}/digits/none"),
        ("evaluate", [f"run={STORE}/digits/none"], f"{STORE}/digits/none"),
        ("compare", [f"runs={STORE}"], f"runs={STORE} is not possible: give a file or folder"),
    ],
)
def test_what_cannot_be_in_a_store_gets_one_line(tmp_path, digits_root, store, name, given, says):
    ended = run_command(tmp_path, digits_root, name, *given)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert says in ended.err
    assert not list(tmp_path.iterdir())


def test_a_copy_that_is_not_as_far_does_not_replace_the_run_on_this_machine(tmp_path, machine, store, monkeypatch):
    """The store was not reached for the last checkpoint of a run that was stopped twice."""
    first = machine("first")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        stopped = first("train", *RUN, f"outputs={STORE}")
    (config,) = (path for path in store() if path.endswith("config.yaml"))
    url = f"memory:/{Path(config).parent}"
    system = fsspec.filesystem("memory")
    before = dict(system.store)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        stopped = first("train", f"resume={url}")
    assert stopped.code == 143, stopped.err
    run = only_run(next((tmp_path / "first" / "data" / "runs").iterdir()))
    steps = Results.read(run).steps
    system.store.clear()
    system.store.update(before)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 1)
        stopped = first("train", f"resume={url}")
    assert Results.read(run).steps > steps
