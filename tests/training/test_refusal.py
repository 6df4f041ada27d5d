"""A new run that is refused before its first step leaves nothing; what may be of use to anybody stays."""

import shutil

import fsspec
import pytest
from harness import SHORT, files
from torch.distributed import DistNetworkError

from fastconv.config.resume import RunFolder
from fastconv.runs.results import Results
from fastconv.system import distributed
from fastconv.system.errors import InputError, RunWarning, SharedError, StreamError
from fastconv.training import refusal
from fastconv.training.module import ImageClassifier
from fastconv.training.refusal import is_refused, removed_if_refused

STORE = "memory://store/runs"
TINY = ("dataset=digits", *SHORT, "stream=online")
REFUSED = StreamError("the shard is damaged")


def refusing(self, batch, batch_idx):
    raise REFUSED


def test_nothing_stays_of_a_run_that_is_refused(command, tmp_path, monkeypatch):
    """Of the run before it, and of what lay in its place, everything does."""
    assert command("train", *TINY, "checkpoint.save=false").code == 0
    before = files(tmp_path / "outputs")
    monkeypatch.setattr(ImageClassifier, "training_step", refusing)
    ended = command("train", *TINY)
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert ended.err.startswith("fastconv: the shard is damaged")
    assert files(tmp_path / "outputs") == before


def test_nothing_stays_of_its_copy(command, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe("/store/runs/digits/other/config.yaml", b"")
    monkeypatch.setattr(ImageClassifier, "training_step", refusing)
    ended = command("train", *TINY, f"outputs={STORE}")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert ended.err.startswith("fastconv: the shard is damaged")
    assert list(store.store) == ["/store/runs/digits/other/config.yaml"]
    assert not list(tmp_path.rglob("config.yaml"))

    def removes(self, path):
        raise PermissionError("you may only write")

    monkeypatch.setattr(type(store), "rm_file", removes)
    with pytest.warns(RunWarning, match=r"cannot remove memory://.*Remove the folder there yourself$"):
        ended = command("train", *TINY, f"outputs={STORE}")
    assert (ended.code, ended.err.split(".")[0]) == (1, "fastconv: the shard is damaged")
    store.store.clear()


def test_a_job_of_a_sweep_stays(command, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "training_step", refusing)
    ended = command("train", "-m", *TINY, "seed=0,1")
    assert ended.code == 1
    assert len(list(tmp_path.rglob("results.json"))) == 2, "a sweep tells why its jobs failed"


@pytest.fixture
def folder(tmp_path):
    """The folder of a new run before its first step."""
    run = RunFolder(tmp_path / "run", None, resumed=False, is_new=True)
    run.path.mkdir()
    for name in ("config.yaml", ".lock", "log.txt", "events.out.tfevents.1.machine.2.0"):
        (run.path / name).write_text("")
    Results("digits", "davidnet", None, 0, 0, steps=0).write(run.path)
    return run


def after_a_step(run):
    Results("digits", "davidnet", None, 0, 0, steps=1).write(run.path)


def resumed(run):
    run.resumed, run.is_new = True, False


KEPT = {
    "it took a step": (after_a_step, REFUSED),
    "it took a step that a full disk kept from its results": (lambda run: setattr(run, "has_trained", True), REFUSED),
    "its results cannot be read": (lambda run: (run.path / "results.json").write_text("{"), REFUSED),
    "it has a checkpoint": (lambda run: (run.path / "last.ckpt").touch(), REFUSED),
    "it has a file of the user": (lambda run: (run.path / "notes.txt").touch(), REFUSED),
    "it is resumed": (resumed, REFUSED),
    "it crashed": (lambda run: None, RuntimeError("a bug")),
    "it was stopped": (lambda run: None, KeyboardInterrupt()),
}


def ended_by(error, cause=None):
    try:
        raise error from cause
    except BaseException as raised:
        return raised


@pytest.mark.parametrize("why", KEPT)
def test_a_folder_of_use_stays(folder, why):
    change, error = KEPT[why]
    assert is_refused(folder, REFUSED)
    change(folder)
    before = files(folder.path)
    with pytest.raises(type(error)), removed_if_refused(folder):
        raise error
    assert files(folder.path) == before


def test_a_folder_that_is_gone_changes_no_error(folder):
    shutil.rmtree(folder.path)
    with pytest.raises(InputError, match=str(REFUSED)), removed_if_refused(folder):
        raise REFUSED


def test_a_folder_stays_while_another_rank_may_use_it(folder, monkeypatch):
    """A rank of torchrun that does not know of the error, or goes on with this folder as the line says."""
    lost = ended_by(InputError("go on with resume=FOLDER"), DistNetworkError("reset by peer"))
    assert not is_refused(folder, lost)
    monkeypatch.setattr(refusal, "started_together", lambda: True)
    assert not is_refused(folder, REFUSED)
    assert is_refused(folder, SharedError("all ranks have it"))
    monkeypatch.setattr(distributed, "_told", REFUSED)
    assert is_refused(folder, REFUSED)
