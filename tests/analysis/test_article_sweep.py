"""The article's page of sweeps other than the article's own: what they vary is kept apart, and captions are true."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from fastconv.analysis.article.claims import claims_of
from fastconv.analysis.article.figures import augmentation, figures_of
from fastconv.analysis.article.page import first_pair
from fastconv.analysis.article.rows import measures_of, setups
from fastconv.analysis.article.sweep_rows import rows_of_sweep
from fastconv.runs.collection import Entry
from fastconv.runs.results import Results

# By the option of `augment`: the settings that it decides here.
POLICIES = {
    "standard": {"augment.crop.padding": 4, "augment.flip.probability": 0.5, "augment.cutout.size": 8},
    "airbench": {"augment.crop.padding": 2, "augment.flip.probability": 0.5, "augment.cutout.size": 0},
    "none": {"augment.crop.padding": 0, "augment.flip.probability": 0.0, "augment.cutout.size": 0},
}


def run(name: str, accuracy: float, augment: str, seed: int, dataset: str = "cifar10", **written: str) -> Entry:
    """A finished run of a sweep, in the folder `name`."""
    written = {key.replace("__", "."): value for key, value in written.items()}
    overrides = [f"dataset={dataset}", f"augment={augment}", f"seed={seed}", *map("=".join, written.items())]
    hparams = {"dataset.name": dataset, "schedule.max_epochs": 25, "model.width": 64, **POLICIES[augment]}
    results = Results(dataset, "davidnet", "article", seed, seed, accuracy, stop_reason="epochs", seconds_counted=30.0,
                      epochs=25.0, overrides=overrides, hparams=hparams)  # fmt: skip
    return Entry(Path("sweep", name), hparams, dict(each.split("=", 1) for each in overrides), results, None)


def swept() -> list[Entry]:
    """Three augmentations with seeds 0 and 1, in which `standard` gains 1 point and `airbench` loses 2."""
    levels = {"standard": 0.91, "airbench": 0.88, "none": 0.90}
    return [
        run(f"{augment}-{seed}", level + seed / 100, augment, seed)
        for seed in (0, 1)
        for augment, level in levels.items()
    ]


def test_each_augmentation_is_compared_with_the_runs_without():
    rows = rows_of_sweep(swept())
    found = claims_of(setups(rows), rows, [])
    gains = {each.setup.settings: each for each in found if each.claim.startswith("Accuracy")}
    assert {name: (each.mean, each.n) for name, each in gains.items()} == {
        "augment=standard,none": ("+1.00 points", 2),
        "augment=airbench,none": ("-2.00 points", 2),
    }
    assert [each.command for each in found] == [""] * len(found), "benchmarks/article.py trains one augmentation"
    plain = [row for row in rows if not row.augmented]
    assert sorted((row.run, row.settings) for row in plain) == [
        (f"none-{seed}", f"augment={name},none") for seed in (0, 1) for name in ("airbench", "standard")
    ]


def test_one_augmentation_needs_no_name():
    rows = rows_of_sweep([each for each in swept() if "airbench" not in each.folder.name])
    assert [row.settings for row in rows] == [""] * 4


def test_a_plain_run_has_its_measures_in_the_comparison_that_a_report_shows(tmp_path):
    rows = rows_of_sweep(swept())
    with (tmp_path / "measures.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["run", "method", "measure", "mean", "median", "n", "sd"])
        table.writerows([name, "grad_cam", "on_object", 0.5, 0.5, 100, 0.1] for name in ("none-0", "airbench-0"))
    found = measures_of(tmp_path, rows)
    assert [(each.augmented, each.settings) for each in found] == [
        (False, "augment=airbench,none"),
        (True, "augment=airbench,none"),
    ]


@pytest.mark.parametrize("key", ["budget.seconds", "trainer.num_threads", "experiment"])
def test_runs_that_differ_in_a_setting_without_a_column_are_no_repetitions(key):
    name = key.replace(".", "__")
    rows = rows_of_sweep([run("0", 0.9, "standard", 0, **{name: "1"}), run("1", 0.8, "standard", 0, **{name: "2"})])
    assert [row.settings for row in rows] == [f"{key}=1", f"{key}=2"]
    (only,) = rows_of_sweep([run("0", 0.9, "standard", 0, **{name: "1"})])
    assert only.settings == ""


def test_a_flip_that_a_data_set_forbids_is_no_second_run_without_augmentation():
    runs = [run("0", 0.9, "none", 0), run("1", 0.9, "none", 0), run("2", 0.9, "standard", 0)]
    runs[1].written["augment"] = "flip"
    assert [row.run for row in rows_of_sweep(runs)] == ["0", "2"]


def test_the_runs_that_are_shown_side_by_side_have_one_seed():
    runs = {each.folder.name: each for each in swept() if "airbench" not in each.folder.name}
    del runs["none-0"]
    _, pair = first_pair(rows_of_sweep(list(runs.values())), "cifar10")
    assert {augmented: row.run for augmented, row in pair.items()} == {True: "standard-1", False: "none-1"}
    del runs["none-1"]
    _, pair = first_pair(rows_of_sweep(list(runs.values())), "cifar10")
    assert {augmented: row.run for augmented, row in pair.items()} == {True: "standard-0"}


def test_a_pair_of_a_later_setup_is_shown_before_a_run_alone():
    alone = run("0", 0.9, "standard", 0, batch_size="64")
    alone.hparams["model.width"] = 128
    pair = [run("1", 0.9, "standard", 0, batch_size="32"), run("2", 0.8, "none", 0, batch_size="32")]
    setup, found = first_pair(rows_of_sweep([alone, *pair]), "cifar10")
    assert (setup.width, setup.settings) == (64, "batch_size=32")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("hparams", "text"),
    [
        (POLICIES["standard"], "padded and cropped, flipped, with cutout"),
        (POLICIES["airbench"], "padded and cropped, flipped"),
        (POLICIES["standard"] | {"augment.flip.probability": 0.0}, "padded and cropped, with cutout"),
        ({"augment.auto": "rand_augment"}, "by rand_augment"),
        ({"augment.mine.probability": 0.5}, "augmented"),
    ],
)
def test_a_caption_says_what_was_done_to_the_images(hparams, text):
    assert augmentation(hparams) == text


@pytest.mark.parametrize(
    ("on", "text"),
    [
        ("test", "(lines: training images; dots: test images, which decide nothing)"),
        ("holdout", "(lines: training images; dots: held-out images)"),
        ("none", "(lines: training images)"),
    ],
)
def test_a_caption_says_which_images_the_curves_are_of(tmp_path, on, text):
    Image.new("RGB", (4, 4)).save(tmp_path / "curves.png")
    (figure,) = figures_of("digits", tmp_path / "curves.png", tmp_path / "none.png", None, {"validate.on": on})
    assert figure.caption == f"Loss and accuracy over the epochs {text}, and the learning rate."


def test_no_command_is_told_for_images_of_your_own():
    rows = rows_of_sweep([run("0", 0.9, "standard", 0, dataset="photos"), run("1", 0.8, "none", 0, dataset="photos")])
    assert {each.command for each in claims_of(setups(rows), rows, [])} == {""}
