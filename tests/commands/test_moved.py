"""Runs can be moved, and read from any folder: their settings lead to the data, and export needs none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import SHORT, only_run, run_command
from omegaconf import OmegaConf
from PIL import Image

from fastconv.analysis.checkpoint import load_run

DATA = ("dataset=image_folder", "dataset.root=photos", "dataset.test_share=0.25", "dataset.image_size=8")
TINY = ("model.width=4", "batch_size=4", "micro_batch_size=4", "augment=none", "stream=online", *SHORT[3:])


@pytest.fixture
def moved(tmp_path, command):
    """(the folder where a run was trained on images of its own, the run's folder elsewhere)."""
    generator = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    ended = command("train", *DATA, *TINY)
    assert ended.code == 0, ended.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return tmp_path, shutil.move(only_run(tmp_path / "outputs"), elsewhere / "a")


def test_a_run_is_evaluated_and_exported_from_any_folder(moved, digits_root):
    trained, run = moved
    config = OmegaConf.load(run / "config.yaml")
    assert config.dataset.root == str(trained / "photos")
    ended = run_command(run.parent, digits_root, "evaluate", "run=a")
    assert ended.code == 0, ended.err
    (trained / "photos").rename(trained / "gone")
    ended = run_command(run.parent, digits_root, "export", "run=a", "format=torch", "samples=3")
    assert ended.code == 0, ended.err
    assert "on 3 noise images" in ended.out
    assert f"The test images are not here, so noise was used to compare: there is no {trained}/photos" in ended.out
    ended = run_command(run.parent, digits_root, "export", "run=a", "format=torch", "dataset.root=nowhere")
    assert (ended.code, ended.err.count("\n")) == (1, 1), "images that are named are not replaced by noise"
    assert "nowhere" in ended.err


def test_a_built_in_data_set_is_found_where_the_run_found_it(davidnet_run, tmp_path, monkeypatch):
    data = Path(OmegaConf.load(davidnet_run / "config.yaml").data)
    assert data.is_absolute()
    assert (data / "arrays" / "digits").is_dir()
    shutil.copytree(davidnet_run, tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    run = load_run(tmp_path / "a")
    assert run.data_folder(None) == data
    assert str(run.data_folder("there")) == "there"
    shutil.copytree(davidnet_run, tmp_path / "b")
    config = tmp_path / "b" / "config.yaml"
    config.write_text(config.read_text().replace(f"data: {data}\n", f"data: {tmp_path / 'never'}\n"))
    assert str(load_run(tmp_path / "b").data_folder(None)) == "data", "fastconv has written nothing there"


def test_a_run_goes_on_with_paths_as_they_were_typed(command, tmp_path, moved):
    """Also one of an earlier version, whose config has them as they were typed."""
    trained, run = moved
    for name in ("results.json", "last.ckpt"):
        (run / name).unlink()
    (run.parent / "a").rename(tmp_path / "outputs" / "a")
    config = tmp_path / "outputs/a/config.yaml"
    ended = command("train", *DATA, *TINY, "resume=auto")
    assert "going on in outputs/a" in ended.out
    assert "resume=auto:" not in ended.out
    ended = command("train", *DATA, *TINY, "seed=5", "resume=auto")
    assert "resume=auto: no run of these settings in outputs is unfinished" in ended.out
    for name in ("results.json", "last.ckpt"):
        (tmp_path / "outputs/a" / name).unlink()
    config.write_text(config.read_text().replace(str(trained / "photos"), "photos"))
    ended = command("train", *DATA, "resume=outputs/a")
    assert "going on in outputs/a" in ended.out, ended.err
