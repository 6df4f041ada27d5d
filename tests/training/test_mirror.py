"""Runs in an object store: copied there after each checkpoint, and fetched from there on another machine."""

import os
import shutil
import threading
import warnings
from pathlib import Path

import fsspec
import pytest
from harness import RUN, only_run, run_command, same_weights, stop_at
from rich.console import Console

from fastconv.config import run_store
from fastconv.config.run_store import fetch_run
from fastconv.data.download import copy_url
from fastconv.data.url_place import Place
from fastconv.runs.results import Results
from fastconv.system.errors import InputError, RunWarning
from fastconv.training import mirror
from fastconv.training.mirror import Mirror, mirrored

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
    assert "has finished: there is nothing to resume" in again.err


def test_results_are_sent_last_and_only_what_has_changed_is_sent_again(tmp_path, store, monkeypatch):
    names = ["results.json", "a.txt", "last.ckpt", "z/z.png", "config.yaml", ".lock", "last.ckpt.01.part"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    sent, put = [], Place.put
    monkeypatch.setattr(Place, "put", lambda place, path: (sent.append(path.name), put(place, path)))
    copy = Mirror(tmp_path, f"{STORE}/digits/a")
    copy.send()
    assert sent == ["a.txt", "z.png", "config.yaml", "last.ckpt", "results.json"]
    assert store() == [f"/store/runs/digits/a/{name}" for name in sorted(names[:5])]
    (tmp_path / "results.json").write_text("more")
    copy.send()
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


def test_what_arrives_in_part_is_sent_again_and_what_is_gone_is_not(tmp_path, store, monkeypatch):
    put, cuts = Place.put, 1

    def disturbed(place, path):
        nonlocal cuts
        if path.name == "gone.txt":
            path.unlink()
        put(place, path)
        if path.name == "results.json" and cuts:
            cuts -= 1
            place.write(path.read_bytes()[:3])

    for name in ("gone.txt", "last.ckpt", "results.json"):
        (tmp_path / name).write_text("content")
    monkeypatch.setattr(Place, "put", disturbed)
    Mirror(tmp_path, f"{STORE}/a").send()
    assert {name: file.getvalue() for name, file in fsspec.filesystem("memory").store.items()} == {
        "/store/runs/a/last.ckpt": b"content",
        "/store/runs/a/results.json": b"content",
    }
    cuts = 99
    with pytest.raises(InputError, match=r"results.json in 2 tries: not all of its 7 bytes arrived. Check outputs"):
        Mirror(tmp_path, f"{STORE}/b").send()


def test_checkpoints_are_copied_on_after_a_failure_of_the_disk(tmp_path, store, monkeypatch):
    send, sent = Mirror.send, [threading.Event(), threading.Event()]

    def failing(self):
        now = next(each for each in sent if not each.is_set())
        now.set()
        if now is sent[0]:
            raise OSError(5, "Input/output error", "x.txt")
        send(self)

    monkeypatch.setattr(Mirror, "send", failing)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    with warnings.catch_warnings(record=True) as told, mirrored(Mirror(tmp_path, f"{STORE}/a"), Console(quiet=True)):
        warnings.simplefilter("always")
        for moment, content in zip(sent, ("1", "22"), strict=True):
            (tmp_path / "last.ckpt").write_text(content)
            os.utime(tmp_path / "last.ckpt", (len(content), len(content)))
            assert moment.wait(60)
        sent.append(threading.Event())  # for the end of the run
    (line,) = (str(each.message) for each in told if each.category is RunWarning)
    assert "Input/output error" in line
    assert line.endswith("The run goes on, and sends it with the next checkpoint")


def test_a_run_that_was_fetched_in_part_is_no_run(tmp_path, store, monkeypatch):
    """As a killed process leaves it, whichever file it was at."""
    url, folder = f"{STORE}/digits/a", tmp_path / "digits" / "a"
    names = ["a.txt", "config.yaml", "last.ckpt", "results.json", "z/z.png"]
    for name in names:
        fsspec.filesystem("memory").pipe(f"/store/runs/digits/a/{name}", name.encode())
    copy = run_store.copy_url
    for most in range(len(names)):
        left = most

        def killed(*given):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            copy(*given)

        with monkeypatch.context() as patch:
            patch.setattr(run_store, "copy_url", killed)
            patch.setattr(run_store.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(KeyboardInterrupt):
                fetch_run(url, folder, "resume")
        assert list(tmp_path.rglob("config.yaml")) == []
    fetch_run(url, folder, "resume")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()) == names
    assert [path.name for path in folder.parent.iterdir() if path.name[0] != "."] == ["a"]


def test_a_run_that_this_machine_has_is_not_fetched_again(tmp_path, store, monkeypatch):
    """Its results say so: they are sent last, and so fetched first, while another machine may be sending."""
    url, folder = f"{STORE}/digits/a", tmp_path / "digits" / "a"
    asked, copy, system = [], run_store.copy_url, fsspec.filesystem("memory")

    def recorded(name, *given):
        asked.append(name.removeprefix(f"{url}/"))
        copy(name, *given)

    def fetched(steps):
        Results("digits", "davidnet", None, 0, 0, steps=steps).write(tmp_path)
        for name, content in (("results.json", (tmp_path / "results.json").read_bytes()), ("config.yaml", b""),
                              ("last.ckpt", str(steps).encode())):  # fmt: skip
            system.pipe(f"/store/runs/digits/a/{name}", content)
        asked.clear()
        fetch_run(url, folder, "run")
        return asked

    monkeypatch.setattr(run_store, "copy_url", recorded)
    assert fetched(1) == ["results.json", "last.ckpt", "config.yaml"]
    assert fetched(1) == ["results.json"]
    assert fetched(2) == ["results.json", "last.ckpt", "config.yaml"]
    assert (folder / "last.ckpt").read_bytes() == b"2"


def test_a_file_that_does_not_arrive_whole_is_not_taken(tmp_path, store, monkeypatch):
    for name in ("config.yaml", "last.ckpt"):
        fsspec.filesystem("memory").pipe(f"/store/runs/digits/a/{name}", b"123")
    files = run_store._files
    monkeypatch.setattr(run_store, "_files", lambda *given: files(*given) | {"last.ckpt": 8})
    with pytest.raises(InputError, match=r"last.ckpt in 2 tries: it has 3 bytes instead of 8"):
        fetch_run(f"{STORE}/digits/a", tmp_path / "a", "resume")
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_not_taken_for_the_network(store):
    fsspec.filesystem("memory").pipe("/store/x", b"123")
    with pytest.raises(InputError, match=r"^cannot write /dev/full: No space left on device. Free some space"):
        copy_url("memory://store/x", "resume", Path("/dev/full"), 3, threading.Event(), "", print)


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
        ("train", ["resume=http://host/runs/digits/a"], "a web server does not list the files of a folder"),
        ("evaluate", ["run=http://host/runs/digits/a"], "a web server does not list the files of a folder"),
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
