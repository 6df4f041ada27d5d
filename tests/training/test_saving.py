"""What a run saves: whole or not at all, the network that was scored, and results before pictures."""

import errno
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from harness import RUN, SMALL, failing_writes, only_run, require_told_or_whole, run_command

from fastconv.analysis import run_figures
from fastconv.analysis.checkpoint import load_run
from fastconv.models.weights import weights_digest
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.training import checkpoint_file

TINY = ("dataset=digits", *SMALL, "budget.seconds=null", "schedule.max_epochs=0.2", "validate.on=none")


@pytest.mark.parametrize(
    "pattern", [r"config\.yaml", r"results\.json", r"last\.ckpt", r"metrics\.csv", "tfevents", r"shard-\d+", r"\.npy"]
)
def test_a_disk_that_is_full(tmp_path, digits_root, pattern):
    data = tmp_path / "empty" if pattern == r"\.npy" else digits_root
    stream = "stream=precomputed" if "shard" in pattern else "stream=online"
    with failing_writes(pattern, errno.ENOSPC) as failed:
        ended = run_command(tmp_path, data, "train", *TINY, stream, "stream.root=streams")
    assert failed
    require_told_or_whole(ended, tmp_path / "outputs")
    assert (ended.code == 0) == (pattern == "tfevents"), ended.err


def test_a_small_folder_of_temporary_files_is_not_needed(tmp_path, digits_root, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    ended = run_command(tmp_path, digits_root, "train", *TINY, "stream=online")
    assert ended.code == 0, ended.err
    require_told_or_whole(ended, tmp_path / "outputs")


def test_a_figure_that_fails_is_a_warning(tmp_path, digits_root, monkeypatch):
    def fail(folder, *_):
        assert Results.read(folder).accuracy is not None, "the results are there first"
        raise RuntimeError("no\nink")

    monkeypatch.setattr(run_figures, "draw_run", fail)
    with pytest.warns(UserWarning, match=r"^left out: curves \(no ink\). The run itself is whole$"):
        ended = run_command(tmp_path, digits_root, "train", *TINY, "stream=online", "figures=true")
    assert ended.code == 0, ended.err
    require_told_or_whole(ended, tmp_path / "outputs")


def test_a_run_without_matplotlib_is_whole(tmp_path, digits_root, monkeypatch):
    """It cannot be imported where it has no folder, as for a user without a home."""
    monkeypatch.setitem(sys.modules, "fastconv.training.pictures", None)
    with pytest.warns(UserWarning, match=r"^left out: figures \(.*\). The run itself is whole$"):
        ended = run_command(tmp_path, digits_root, "train", *TINY, "stream=online", "figures=true")
    assert ended.code == 0, ended.err
    require_told_or_whole(ended, tmp_path / "outputs")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize(("platform", "is_mapped"), [("win32", False), ("linux", True)])
def test_a_run_that_goes_on_maps_its_checkpoint_but_on_windows(davidnet_run, monkeypatch, platform, is_mapped):
    """Windows replaces no file that is mapped, and the run writes it again."""
    monkeypatch.setattr(checkpoint_file, "sys", SimpleNamespace(platform=platform))
    path = davidnet_run.resolve() / "last.ckpt"
    checkpoint = checkpoint_file.read_checkpoint(path)
    assert (str(path) in Path("/proc/self/maps").read_text()) is is_mapped
    assert checkpoint["state_dict"]


def test_a_network_that_was_not_scored_is_refused(tmp_path, davidnet_run):
    """As a disk leaves it that was full at the last checkpoint, or a person who copies files."""
    run = tmp_path / "run"
    shutil.copytree(davidnet_run, run)
    results = json.loads((run / "results.json").read_text())
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert results["weights_digest"] == state["weights_digest"] == weights_digest(state["state_dict"])
    load_run(run)

    name = next(name for name, value in state["state_dict"].items() if value.is_floating_point())
    state["state_dict"][name].view(-1)[0] += 1
    torch.save(state, run / "last.ckpt")
    with pytest.raises(InputError, match="is damaged: its weights are not those that were written"):
        load_run(run)
    state["weights_digest"], state["global_step"] = weights_digest(state["state_dict"]), 5
    torch.save(state, run / "last.ckpt")
    with pytest.raises(InputError, match=r"last.ckpt \(step 5\) does not belong to results.json \(step \d+\)"):
        load_run(run)
    results["weights_digest"] = None  # of a version without
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"\(step 5\) does not belong to results.json"):
        load_run(run)
    state["global_step"] = results["steps"]
    torch.save(state, run / "last.ckpt")
    load_run(run)


def test_a_digest_is_of_names_shapes_and_values():
    state = {"a": torch.arange(8.0).view(1, 2, 2, 2), "b": torch.tensor(3)}
    digest = weights_digest(state)
    assert digest == weights_digest(dict(reversed(state.items())))
    assert digest == weights_digest(state | {"a": state["a"].to(memory_format=torch.channels_last)})
    others = [state | {"a": state["a"] + 1}, state | {"a": state["a"].view(8)}, state | {"a": state["a"].double()},
              {"c": state["a"], "b": state["b"]}]  # fmt: skip
    assert len({digest, *map(weights_digest, others)}) == 5


def test_a_stop_longer_than_the_budget_ends_the_schedule(command, tmp_path, monkeypatch, simulated_time):
    """The process was stopped for longer than what was left: that step is the last, and the time is told as it was."""
    from fastconv.training.module import ImageClassifier

    original, calls = ImageClassifier.training_step, 0

    def stopped(self, *arguments):
        nonlocal calls
        calls += 1
        simulated_time.seconds += 60 if calls == 31 else 0
        return original(self, *arguments)

    monkeypatch.setattr(ImageClassifier, "training_step", stopped)
    ended = command("train", *RUN, "budget.seconds=5", "schedule.max_epochs=null", "validate.on=none")
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert found.final_lr <= 0.01
    assert (found.stop_reason, found.steps) == ("budget", 31)
    assert found.seconds_counted > 60


@pytest.mark.parametrize(
    ("name", "key", "more"),
    [
        ("audit", "data", ()),
        ("train", "stream.cache", TINY),
        ("compare", "page", ()),
        ("predict", "out", ("run=.", "images=.")),
        ("explain", "folder", ("run=.",)),
        ("export", "data", ("run=.",)),
        ("train", "sweep.resume", ("-m", "seed=1,2", *TINY)),
        ("train", "hydra.run.dir", TINY),
        ("train", "hydra.sweep.dir", ("-m", "seed=1,2", *TINY)),
    ],
)
def test_a_folder_on_a_server_is_refused(command, tmp_path, name, key, more):
    for url in ("s3://bucket/here", "s3:/bucket/here", "simplecache::s3://bucket/here"):
        ended = command(name, *more, f"{key}={url}")
        assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
        assert f"{key}={url} is not possible: give a file or folder on this machine" in ended.err
        assert not list(tmp_path.iterdir())
