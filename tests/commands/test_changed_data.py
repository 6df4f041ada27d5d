"""A data set that changes after a run: the run keeps its own images, and says what has changed."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from harness import QUICK, only_run, same_weights, stop_at
from PIL import Image

from fastconv.data.hashes import content_hashes
from fastconv.data.sources.pixels import to_array
from fastconv.data.split_record import SplitRecord

SIDE = 8
TRAIN = ("dataset=image_folder", "dataset.root=photos", "model=airbench", "model.widths=[4,8,8]", "augment=none",
         "batch_size=16", "micro_batch_size=16", "trainer=cpu", "trainer.precision=fp32", "budget.seconds=null",
         "schedule.max_epochs=30", "stream=online", "validate.on=none", "checkpoint.every=null")  # fmt: skip


def take_photos(folder, names, seed: int) -> None:
    """Noise, of which nothing can be learned but by heart: honest accuracy is about 50 %."""
    generator = np.random.default_rng(seed)
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / kind / f"{name}.png")


@pytest.fixture(scope="module")
def trained(made_once):
    """A folder with photos, and a run below `outputs` that knows its training images by heart."""
    from harness import run_command

    def train(folder):
        take_photos(folder / "photos", range(40), 0)
        ended = run_command(folder, folder / "data", "train", *TRAIN)
        assert ended.code == 0, ended.err

    return made_once("photos", train)


@pytest.fixture
def grown(trained, tmp_path):
    """The same with more photos since: (folder, run)."""
    for name in ("photos", "outputs", "data"):
        shutil.copytree(trained / name, tmp_path / name)
    config = only_run(tmp_path / "outputs") / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path)))  # the photos' place is absolute
    take_photos(tmp_path / "photos", [f"{at} new" for at in range(4)], 1)
    return tmp_path, only_run(tmp_path / "outputs")


def evaluate(command, run):
    ended = command("evaluate", f"run={run}", f"data={run.parents[2] / 'data'}")
    assert ended.code == 0, ended.err
    return ended.out, json.loads((run / "evaluation.json").read_text())


def test_new_photos_do_not_change_what_was_scored(grown, command):
    _, run = grown
    results = json.loads((run / "results.json").read_text())
    said, found = evaluate(command, run)
    assert found["images"] == 16
    assert found["accuracy"] == pytest.approx(results["accuracy"])
    assert "8 images are new since this run, and left out." in said
    assert found["warnings"] == ["8 images are new since this run, and left out."]
    assert "8 images are new" in (run / "report.html").read_text()


def test_a_run_knows_its_training_images_by_heart(grown):
    """So that a single one among the test images would show."""
    import fastconv

    folder, run = grown
    predictor = fastconv.load(run, "cpu")
    files = sorted(folder.glob("photos/*/?.png")) + sorted(folder.glob("photos/*/??.png"))
    right = [name == path.parent.name for name, path in zip(predictor.predict(files).names, files, strict=True)]
    assert np.mean(right) > 0.75


def test_explain_and_export_take_its_test_images(grown, command):
    folder, run = grown
    data = f"data={folder / 'data'}"
    ended = command("explain", f"run={run}", *QUICK, "method=[grad_cam]", "measures=false", data)
    assert ended.code == 0, ended.err
    assert "8 images are new since this run" in ended.out
    ended = command("export", f"run={run}", "format=torch", "samples=1000", data)
    assert ended.code == 0, ended.err
    assert "on 16 test images" in ended.out


def test_explain_leaves_out_what_the_other_run_was_trained_on(grown, command, tmp_path):
    folder, run = grown
    other = shutil.copytree(run, tmp_path / "other")
    record = json.loads((other / "splits.json").read_text())
    (other / "splits.json").write_text(json.dumps({**record, "test": record["train"], "train": record["test"]}))
    given = (*QUICK, "method=[grad_cam]", "measures=false", f"data={folder / 'data'}")
    ended = command("explain", f"run={run}", f"against={other}", *given)
    assert ended.code == 1
    assert ended.err == (
        "fastconv: each test image is a training image of some of the runs: give runs with the same split\n"
    )


def test_a_copy_of_a_training_image_in_the_test_folder_is_told(command, tmp_path):
    take_photos(tmp_path / "photos" / "train", range(20), 0)
    take_photos(tmp_path / "photos" / "test", range(5), 1)
    shutil.copy(tmp_path / "photos" / "train" / "cat" / "3.png", tmp_path / "photos" / "test" / "cat" / "copy.png")
    given = [each for each in TRAIN if not each.startswith("schedule")]
    ended = command("train", *given, "schedule.max_epochs=1")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.replace("│", " ").split())
    assert "1 of 11 test images is a training image too: the accuracy will be too high" in said
    ended = command("evaluate", f"run={only_run(tmp_path / 'outputs')}")
    assert "1 of 11 test images is a training image too: the accuracy is too high" in ended.out


def test_a_stopped_run_goes_on_with_its_own_images(command, tmp_path, monkeypatch):
    take_photos(tmp_path / "photos", range(40), 0)
    short = [*(each for each in TRAIN if not each.startswith("schedule")), "schedule.max_epochs=4"]
    assert command("train", *short, f"outputs={tmp_path / 'whole'}").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 6)
        assert command("train", *short).code == 143
    run = only_run(tmp_path / "outputs")
    take_photos(tmp_path / "photos", ["new"], 1)
    ended = command("train", f"resume={run}")
    assert ended.code == 0, ended.err
    assert "2 images are new since this run, and left out." in ended.out
    assert same_weights(run, only_run(tmp_path / "whole"))


def test_a_stopped_run_that_lost_an_image_says_how_to_go_on(command, tmp_path, monkeypatch):
    take_photos(tmp_path / "photos", range(20), 0)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 3)
        assert command("train", *TRAIN).code == 143
    run = only_run(tmp_path / "outputs")
    before = (run / "last.ckpt").read_bytes()
    (tmp_path / "photos" / "cat" / "7.png").unlink()
    ended = command("train", f"resume={run}")
    assert ended.code == 1
    assert "1 image is gone (1 of the t" in ended.err
    assert ended.err.endswith("Put them back, or start a new run\n")
    assert ended.err.count("\n") == 1
    (run / "splits.json").unlink()  # as an earlier version left it
    ended = command("train", *TRAIN, "resume=auto")
    assert ended.code == 1
    assert "was trained on other images than photos has now" in ended.err
    assert (run / "last.ckpt").read_bytes() == before


def test_a_run_of_an_earlier_version_warns_if_its_images_have_changed(grown, command):
    _, run = grown
    (run / "splits.json").unlink()
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "test_digest": None}))
    stored = torch.load(run / "last.ckpt", weights_only=True)
    said, _ = evaluate(command, run)
    assert f"{run / 'splits.json'}, the list of this run's images, is missing" in said
    assert "the run may have been trained on some of these test images" in said
    assert stored["network"]["mean"], "by which it is told"


def test_without_the_record_only_the_test_images_of_the_results_are_scored(grown, command):
    folder, run = grown
    results = json.loads((run / "results.json").read_text())
    (run / "splits.json").unlink()
    ended = command("evaluate", f"run={run}", f"data={folder / 'data'}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"{run / 'splits.json'} is missing, and the test images of photos are not those" in ended.err
    assert not (run / "evaluation.json").exists()
    for path in (folder / "photos").glob("*/* new.png"):
        path.unlink()
    _, found = evaluate(command, run)
    assert found["accuracy"] == pytest.approx(results["accuracy"])
    assert found["warnings"] == []


def test_errors_have_the_names_of_their_files(grown, command):
    """Also of a data set that has grown since, whose rows are others now; and explain names what it shows."""
    folder, run = grown
    _, found = evaluate(command, run)
    errors = found["most_confident_errors"]
    assert len(errors) == round(16 * (1 - found["accuracy"])) > 0
    test, shape = (record := SplitRecord.read(run)).test.hashes, record.shape
    for error in errors:
        pixels = to_array(Image.open(folder / "photos" / error["file"]), shape[0], grey=False)
        assert error["file"].split("/")[0] == error["label"]
        assert content_hashes(pixels[None])[0] == test[error["row"]]
    assert f"{errors[0]['file']}: {errors[0]['prediction']}, confidence " in (run / "report.html").read_text()
    data = f"data={folder / 'data'}"
    ended = command("explain", f"run={run}", *QUICK, "method=[grad_cam]", "measures=false", data)
    assert ended.code == 0, ended.err
    with (run / "explain" / "images.csv").open() as file:
        names = [row["image"] for row in csv.DictReader(file)]
    assert names
    assert all((folder / "photos" / name).is_file() for name in names)
