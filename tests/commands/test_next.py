"""The line `next: fastconv ...` of each command is the following one, as it can be pasted."""

import shlex
import shutil

import numpy as np
import pytest
from harness import QUICK, SHORT
from PIL import Image

FORMATS = ("format=torch", "samples=2")
OWN = ("dataset=image_folder", "dataset.root=my photos", "dataset.test_share=0.25", "dataset.image_size=8")


def next_of(ended):
    assert ended.code == 0, ended.err
    last = ended.out.splitlines()[-1]
    assert last.startswith("next: fastconv "), last
    name, *settings = shlex.split(last.removeprefix("next: fastconv "))
    return name, settings


@pytest.fixture
def photos(tmp_path):
    """16 images of two classes in a folder whose name needs quotes for the shell."""
    generator = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "my photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return path.parents[1]


def test_from_an_audit_to_predictions_of_own_images(command, photos, tmp_path):
    data = (*OWN, "batch_size=4", "micro_batch_size=4")
    small = ("model.width=4", "augment=none", *SHORT[3:], "stream=online")
    name, settings = next_of(command("audit", *data))
    assert (name, settings) == ("train", list(data))
    name, settings = next_of(command(name, *settings, *small))
    assert (name, len(settings)) == ("evaluate", 1)
    run = settings[0]
    assert run.startswith('run="outputs/my photos/')
    name, settings = next_of(command(name, *settings))
    assert (name, settings) == ("explain", [run])
    name, settings = next_of(command(name, *settings, *QUICK, "measures=false", "method=[grad_cam]"))
    assert (name, settings) == ("export", [run])
    name, settings = next_of(command(name, *settings, *FORMATS))
    assert name == "predict"
    ended = command(name, *settings)
    assert (ended.code, ended.err) == (0, "")
    assert "next:" not in ended.out
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 16


@pytest.mark.parametrize(
    ("given", "left", "added"),
    [
        ((), (), "experiment=best"),
        (("experiment=best",), ("experiment=best",), None),
        (("micro_batch_size=4", "batch_size=64"), ("micro_batch_size=4",), "batch_size=12"),
        (("experiment=original",), ("experiment=original",), "batch_size=12"),
    ],
)
def test_an_audit_leads_to_a_batch_that_is_possible(command, photos, given, left, added):
    name, settings = next_of(command("audit", *OWN, *given))
    assert (name, settings) == ("train", [*OWN, *left, *([added] if added else [])])
    if added == "batch_size=12":  # of the 12 images to train on
        small = ("model.width=4", "augment=none", "budget.seconds=null", "stream=online")
        ended = command(name, *settings, *small, "dry_run=true")
        assert ended.code == 0, ended.err


def test_where_the_images_are_now_is_carried_on(command, photos, davidnet_run, tmp_path):
    shutil.copytree(davidnet_run, tmp_path / "a run, of mine")
    name, settings = next_of(command("export", "run=a run, of mine", *FORMATS, "trust=true"))
    assert (name, settings[1:]) == ("predict", ["images=FILES", "trust=true"])
    ended = command(name, settings[0], f"images={photos}/a/0.png")
    assert ended.code == 0, ended.err
    name, settings = next_of(command("evaluate", "run=a run, of mine", f"data={tmp_path}"))
    assert (name, settings[1:]) == ("explain", [f"data={tmp_path}"])


def test_the_jobs_of_a_sweep_and_a_run_without_a_network_have_none(command):
    assert "next:" not in command("train", "-m", *SHORT, "stream=online", "seed=0").out
    assert "next:" not in command("train", *SHORT, "stream=online", "checkpoint.save=false").out
    assert "next:" not in command("train", *SHORT, "dry_run=true").out
