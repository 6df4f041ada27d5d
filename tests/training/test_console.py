"""The tables that a run prints."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from fastconv.data.dataset import ImageData
from fastconv.runs.results import Results
from fastconv.training.console import image_warnings, results_table
from fastconv.training.plan import Run


def finished(**more: Any) -> Results:
    """The results of a run."""
    return Results(
        dataset="digits",
        model="davidnet",
        experiment=None,
        seed=0,
        stream_seed=0,
        accuracy=0.9,
        accuracy_tta=0.9,
        balanced_accuracy=0.9,
        macro_f1=0.9,
        loss=0.1,
        epochs=1.0,
        steps=10,
        seconds_counted=1.0,
        **more,
    )


@pytest.mark.parametrize("name", ["a-long-name" * 9, "two words/" + "x" * 60])
def test_paths_are_shown_whole_in_a_narrow_terminal(name):
    folder = Path("/somewhere", name)
    shown = rows_of(finished(), folder)
    assert shown["run"] == str(folder).replace(" ", "")
    assert shown["dashboard"] == f"tensorboard --logdir {shlex.quote(str(folder))}".replace(" ", "")
    assert list(shown)[-2:] == ["run", "dashboard"], "what to go on with stands last"


def rows_of(results: Results, folder: Path) -> dict[str, str]:
    """The rows of the printed table, without their spaces."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(results_table(results, folder))
    cells = [line.strip("│").split("│") for line in capture.get().splitlines() if line.startswith("│")]
    rows: list[list[str]] = []
    for key, value in cells:  # a row goes on below an empty key
        rows = [*rows, [key.strip(), ""]] if key.strip() else rows
        rows[-1][1] += value.replace(" ", "")
    return dict(map(tuple, rows))


def test_a_result_says_that_its_network_was_not_trained_from_scratch():
    assert rows_of(finished(pretrained="resnet18 V1"), Path("run"))["pretrained"] == "itbeganwiththeweightsresnet18V1"
    assert "pretrained" not in rows_of(finished(), Path("run"))


@pytest.mark.parametrize(("skipped", "said"), [(0, ""), (1200, ",forwhichtherewasnotimeon1,200ofthem")])
def test_images_without_further_views_are_named_beside_the_accuracy(skipped, said):
    results = finished(tta_skipped=skipped)
    accuracy = "90.00%ofthetestimages(loss0.1000);90.00%withtest-timeaugmentation"
    assert rows_of(results, Path("run"))["accuracy"] == accuracy + said


def test_a_network_that_guesses_is_no_result_like_any_other():
    assert "warning" not in rows_of(finished(kappa=0.6), Path("run"))
    said = rows_of(finished(kappa=0.01), Path("run"))["warning"]
    assert "guessing" in said
    assert "10steps" in said
    assert "experiment=best" in said
    assert "experiment=best" not in rows_of(replace(finished(kappa=0.01), experiment="best"), Path("run"))["warning"]


def test_a_calibration_error_says_what_differs():
    assert "calibration" not in rows_of(finished(), Path("run"))
    results = finished(expected_calibration_error=0.0125, expected_calibration_error_unscaled=0.2)
    assert rows_of(results, Path("run"))["calibration"] == (
        "confidenceandaccuracydifferby0.013(expectedcalibrationerror);by0.200beforetemperaturescaling"
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_plan_names_classes_without_images(split):
    """A function of one's own may return such arrays; other sources have images of all classes to train on."""
    whole = ImageData("mine", np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1]), ("cat", "dog"), "")
    lacking = replace(whole, labels=np.array([0, 0, 0, 0]))
    parts = {"train": whole, "test": whole, "holdout": whole.take(np.arange(0)), split: lacking}
    rows = image_warnings(cast(Run, SimpleNamespace(spec=whole, **parts)))
    kind = {"train": "training", "test": "test"}[split]
    assert rows == {f"not {split}ed": f"1 of 2 classes has no {kind} images, such as dog"}
